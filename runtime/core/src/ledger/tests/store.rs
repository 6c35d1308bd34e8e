//! The file: modes, versions, damage, the size of the log.
