//! A read-only `wasi:filesystem` over files in memory, replacing the implementation that opens files: a policy with a
//! granted directory runs where no file can be opened.
//!
//! Invariants: there is at most one directory; every change is refused; times are unknown; a stream shares the file's
//! memory, so that opening files costs the host nothing.

use std::sync::Arc;
use std::vec::IntoIter;

use wasmtime::component::{HasData, Resource, ResourceTable};
use wasmtime_wasi::p2::bindings::filesystem::preopens;
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;
use wasmtime_wasi::p2::bindings::sync::filesystem::types::{
    self, Advice, Descriptor, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, DirectoryEntryStream,
    Filesize, MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::bindings::sync::io::streams::Error as StreamError;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, FsError, FsResult};

use super::tree::{NodeKind, ROOT, ResolveError, Tree};

/// Where the directory appears.
const DATA: &str = "/data";

/// Maximum bytes that one `read` returns.
const READ_MAX: u64 = 1 << 20;

/// A call's files.
pub(super) struct Files<'a> {
    pub(super) tree: Option<&'a Arc<Tree>>,
    pub(super) table: &'a mut ResourceTable,
}

/// For the linker.
pub(super) struct HasFiles;

impl HasData for HasFiles {
    type Data<'a> = Files<'a>;
}

/// An open file of a guest, by its position in the tree. The bindings use a type of their own, which only they can
/// construct: the table holds this type under the same number.
struct Open(usize);

/// The rest of a directory listing.
struct Entries(IntoIter<Result<DirectoryEntry, ErrorCode>>);

/// Returns the same table entry under another type's name.
fn renamed<T: 'static, U: 'static>(resource: &Resource<T>) -> Resource<U> {
    if resource.owned() { Resource::new_own(resource.rep()) } else { Resource::new_borrow(resource.rep()) }
}

fn read_only<T>() -> FsResult<T> {
    Err(ErrorCode::ReadOnly.into())
}

// === impl Files ===

impl<'a> Files<'a> {
    fn node_index(&self, fd: &Resource<Descriptor>) -> FsResult<usize> {
        let open: Resource<Open> = Resource::new_borrow(fd.rep());
        Ok(self.table.get(&open).map_err(FsError::trap)?.0)
    }

    /// Without a directory, nothing can be open.
    fn tree(&self) -> FsResult<&'a Arc<Tree>> {
        self.tree.ok_or_else(|| ErrorCode::BadDescriptor.into())
    }

    fn node(&self, fd: &Resource<Descriptor>) -> FsResult<&'a NodeKind> {
        Ok(self.tree()?.node(self.node_index(fd)?))
    }

    fn content(&self, fd: &Resource<Descriptor>, offset: Filesize) -> FsResult<bytes::Bytes> {
        match self.node(fd)? {
            NodeKind::File(content) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
                Ok(content.slice(from..))
            }
            NodeKind::Directory(_) => Err(ErrorCode::IsDirectory.into()),
            NodeKind::Link(_) | NodeKind::Other => Err(ErrorCode::BadDescriptor.into()),
        }
    }

    fn find(&self, fd: &Resource<Descriptor>, flags: PathFlags, path: &str) -> FsResult<usize> {
        let from = self.node_index(fd)?;
        let follow = flags.contains(PathFlags::SYMLINK_FOLLOW);
        self.tree()?.find(from, path, follow).map_err(|lost| error_code(lost).into())
    }

    fn stat_of(&self, place: usize) -> FsResult<DescriptorStat> {
        let what = self.tree()?.node(place);
        let size = match what {
            NodeKind::File(content) => content.len(),
            NodeKind::Link(target) => target.len(),
            NodeKind::Directory(_) | NodeKind::Other => 0,
        };
        Ok(DescriptorStat {
            type_: kind(what),
            link_count: 1,
            size: u64::try_from(size).unwrap_or(u64::MAX),
            data_access_timestamp: None,
            data_modification_timestamp: None,
            status_change_timestamp: None,
        })
    }

    fn open(&mut self, place: usize) -> FsResult<Resource<Descriptor>> {
        Ok(renamed(&self.table.push(Open(place)).map_err(FsError::trap)?))
    }
}

fn error_code(lost: ResolveError) -> ErrorCode {
    match lost {
        ResolveError::Missing => ErrorCode::NoEntry,
        ResolveError::NotDirectory => ErrorCode::NotDirectory,
        ResolveError::Outside => ErrorCode::NotPermitted,
        ResolveError::Loop => ErrorCode::Loop,
    }
}

fn kind(what: &NodeKind) -> DescriptorType {
    match what {
        NodeKind::Directory(_) => DescriptorType::Directory,
        NodeKind::File(_) => DescriptorType::RegularFile,
        NodeKind::Link(_) => DescriptorType::SymbolicLink,
        NodeKind::Other => DescriptorType::Unknown,
    }
}

/// Returns the hash of an object; equal hashes mean the same object.
fn hash(place: usize) -> MetadataHashValue {
    MetadataHashValue { lower: u64::try_from(place).unwrap_or(u64::MAX), upper: 0 }
}

impl preopens::Host for Files<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        if self.tree.is_none() {
            return Ok(Vec::new());
        }
        Ok(vec![(renamed(&self.table.push(Open(ROOT))?), DATA.to_owned())])
    }
}

impl types::Host for Files<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<types::ErrorCode> {
        error.downcast().map(Into::into)
    }

    fn filesystem_error_code(&mut self, _error: Resource<StreamError>) -> wasmtime::Result<Option<types::ErrorCode>> {
        // Reading memory does not fail.
        Ok(None)
    }
}

impl types::HostDescriptor for Files<'_> {
    fn advise(&mut self, fd: Resource<Descriptor>, _offset: Filesize, _len: Filesize, _advice: Advice) -> FsResult<()> {
        self.content(&fd, 0).map(drop)
    }

    fn sync_data(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.node(&fd).map(drop)
    }

    fn sync(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.node(&fd).map(drop)
    }

    fn get_flags(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorFlags> {
        self.node(&fd).map(|_what| DescriptorFlags::READ)
    }

    fn get_type(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorType> {
        self.node(&fd).map(kind)
    }

    fn read(&mut self, fd: Resource<Descriptor>, len: Filesize, offset: Filesize) -> FsResult<(Vec<u8>, bool)> {
        let content = self.content(&fd, offset)?;
        let length = usize::try_from(len.min(READ_MAX)).unwrap_or(usize::MAX).min(content.len());
        Ok((content.slice(..length).to_vec(), length == content.len()))
    }

    fn read_via_stream(&mut self, fd: Resource<Descriptor>, offset: Filesize) -> FsResult<Resource<DynInputStream>> {
        let stream: DynInputStream = Box::new(MemoryInputPipe::new(self.content(&fd, offset)?));
        self.table.push(stream).map_err(FsError::trap)
    }

    fn read_directory(&mut self, fd: Resource<Descriptor>) -> FsResult<Resource<DirectoryEntryStream>> {
        let tree = self.tree()?;
        let NodeKind::Directory(entries) = self.node(&fd)? else { return Err(ErrorCode::NotDirectory.into()) };
        let entries: Vec<_> = entries
            .iter()
            .map(|(name, place)| match name.to_str() {
                Some(name) => Ok(DirectoryEntry { type_: kind(tree.node(*place)), name: name.to_owned() }),
                None => Err(ErrorCode::IllegalByteSequence),
            })
            .collect();
        Ok(renamed(&self.table.push(Entries(entries.into_iter())).map_err(FsError::trap)?))
    }

    fn stat(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorStat> {
        self.stat_of(self.node_index(&fd)?)
    }

    fn stat_at(&mut self, fd: Resource<Descriptor>, flags: PathFlags, path: String) -> FsResult<DescriptorStat> {
        self.stat_of(self.find(&fd, flags, &path)?)
    }

    fn open_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        open_flags: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        let changes = flags.intersects(DescriptorFlags::WRITE | DescriptorFlags::MUTATE_DIRECTORY)
            || open_flags.intersects(OpenFlags::CREATE | OpenFlags::EXCLUSIVE | OpenFlags::TRUNCATE);
        if changes {
            return read_only();
        }
        let place = self.find(&fd, path_flags, &path)?;
        match self.tree()?.node(place) {
            NodeKind::Link(_) => Err(ErrorCode::Loop.into()),
            NodeKind::File(_) | NodeKind::Other if open_flags.contains(OpenFlags::DIRECTORY) => {
                Err(ErrorCode::NotDirectory.into())
            }
            NodeKind::Directory(_) | NodeKind::File(_) | NodeKind::Other => self.open(place),
        }
    }

    fn readlink_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<String> {
        let place = self.find(&fd, PathFlags::empty(), &path)?;
        match self.tree()?.node(place) {
            NodeKind::Link(target) => {
                target.to_str().map(str::to_owned).ok_or_else(|| ErrorCode::IllegalByteSequence.into())
            }
            NodeKind::Directory(_) | NodeKind::File(_) | NodeKind::Other => Err(ErrorCode::Invalid.into()),
        }
    }

    fn is_same_object(&mut self, one: Resource<Descriptor>, other: Resource<Descriptor>) -> wasmtime::Result<bool> {
        let place = |fd: &Resource<Descriptor>| -> wasmtime::Result<usize> {
            let open: Resource<Open> = Resource::new_borrow(fd.rep());
            Ok(self.table.get(&open)?.0)
        };
        Ok(place(&one)? == place(&other)?)
    }

    fn metadata_hash(&mut self, fd: Resource<Descriptor>) -> FsResult<MetadataHashValue> {
        self.node_index(&fd).map(hash)
    }

    fn metadata_hash_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
    ) -> FsResult<MetadataHashValue> {
        self.find(&fd, flags, &path).map(hash)
    }

    fn drop(&mut self, fd: Resource<Descriptor>) -> wasmtime::Result<()> {
        let open: Resource<Open> = renamed(&fd);
        self.table.delete(open)?;
        Ok(())
    }

    fn set_size(&mut self, _fd: Resource<Descriptor>, _size: Filesize) -> FsResult<()> {
        read_only()
    }

    fn set_times(&mut self, _fd: Resource<Descriptor>, _read: NewTimestamp, _written: NewTimestamp) -> FsResult<()> {
        read_only()
    }

    fn set_times_at(
        &mut self,
        _fd: Resource<Descriptor>,
        _flags: PathFlags,
        _path: String,
        _read: NewTimestamp,
        _written: NewTimestamp,
    ) -> FsResult<()> {
        read_only()
    }

    fn write(&mut self, _fd: Resource<Descriptor>, _bytes: Vec<u8>, _offset: Filesize) -> FsResult<Filesize> {
        read_only()
    }

    fn write_via_stream(
        &mut self,
        _fd: Resource<Descriptor>,
        _offset: Filesize,
    ) -> FsResult<Resource<DynOutputStream>> {
        read_only()
    }

    fn append_via_stream(&mut self, _fd: Resource<Descriptor>) -> FsResult<Resource<DynOutputStream>> {
        read_only()
    }

    fn create_directory_at(&mut self, _fd: Resource<Descriptor>, _path: String) -> FsResult<()> {
        read_only()
    }

    fn link_at(
        &mut self,
        _fd: Resource<Descriptor>,
        _flags: PathFlags,
        _path: String,
        _to: Resource<Descriptor>,
        _name: String,
    ) -> FsResult<()> {
        read_only()
    }

    fn symlink_at(&mut self, _fd: Resource<Descriptor>, _target: String, _name: String) -> FsResult<()> {
        read_only()
    }

    fn rename_at(
        &mut self,
        _fd: Resource<Descriptor>,
        _path: String,
        _to: Resource<Descriptor>,
        _name: String,
    ) -> FsResult<()> {
        read_only()
    }

    fn remove_directory_at(&mut self, _fd: Resource<Descriptor>, _path: String) -> FsResult<()> {
        read_only()
    }

    fn unlink_file_at(&mut self, _fd: Resource<Descriptor>, _path: String) -> FsResult<()> {
        read_only()
    }
}

impl types::HostDirectoryEntryStream for Files<'_> {
    fn read_directory_entry(&mut self, stream: Resource<DirectoryEntryStream>) -> FsResult<Option<DirectoryEntry>> {
        let entries: Resource<Entries> = Resource::new_borrow(stream.rep());
        let entries = self.table.get_mut(&entries).map_err(FsError::trap)?;
        entries.0.next().transpose().map_err(Into::into)
    }

    fn drop(&mut self, stream: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        let entries: Resource<Entries> = renamed(&stream);
        self.table.delete(entries)?;
        Ok(())
    }
}
