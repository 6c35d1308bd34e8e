//! The files that the operator declares for a delegate policy.

use weft_host_abi::types::DeclaredFile;

use super::error::AttachError;
use crate::conf::FileConf;
use crate::facts;

/// Reads the declared files. A missing file is a fact; an unusable one is an error.
pub(super) fn declared_files(files: &[FileConf]) -> Result<Vec<DeclaredFile>, AttachError> {
    let read = |file: &FileConf| {
        let content = facts::declared_file(&file.path)?;
        Ok(DeclaredFile { name: file.name.clone(), path: file.path.to_string_lossy().into_owned(), content })
    };
    files.iter().map(read).collect()
}
