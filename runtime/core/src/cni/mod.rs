//! The wire: environment and stdin in, one JSON document out. Pure; knows the CNI specification and nothing of weft's parts.
