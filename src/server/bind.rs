//! Binding: the sockets of an address, TCP or unix, and what goes with them when they close.

use std::fmt;
use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener};
use tracing::info;

use super::settings::SocketFile;
use super::tls::TlsError;

/// How often all addresses of a name are tried at one port that the system chose for the first.
const TRIES: usize = 16;

/// Why a listener could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "{address} is in use by another program (perhaps another router): stop that one, or choose another \
         address with --listen or `listen` in the configuration"
    )]
    InUse { address: String },
    #[error(
        "{address} cannot be used, as this user may not: choose a port above 1023 or another path"
    )]
    Denied { address: String },
    #[error(
        "{address} is not an address of this machine: use host:port, for example 127.0.0.1:8080"
    )]
    NoSuchAddress { address: String },
    #[error("{} exists and is not a socket: remove it, or choose another path", .path.display())]
    NotASocket { path: PathBuf },
    #[error(
        "{address} is too long for a unix socket, which nobody could connect to: the system takes about 100 octets"
    )]
    TooLong { address: String },
    #[error(
        "{}: owner or group cannot be set: {error} (only root may give a file to others)", .path.display()
    )]
    Owner { path: PathBuf, error: io::Error },
    #[error("TLS on {address}: {error}")]
    Tls {
        address: String,
        error: Box<TlsError>,
    },
    #[error("no thread for the timers of connections: {0}")]
    Timers(io::Error),
    #[error("listening on {address} failed: {error}")]
    Other { address: String, error: io::Error },
}

fn refusal(address: &str, error: io::Error) -> ListenError {
    let address = address.to_owned();
    match error.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { address },
        io::ErrorKind::PermissionDenied => ListenError::Denied { address },
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::InvalidInput => {
            ListenError::NoSuchAddress { address }
        }
        _ => ListenError::Other { address, error },
    }
}

/// Where a listener can be reached; `Display` gives `ws://127.0.0.1:8080/ws` or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BoundAddress {
    Tcp {
        address: SocketAddr,
        tls: bool,
        path: String,
    },
    Unix(PathBuf),
    /// A unix socket without a file.
    Abstract(String),
}

impl BoundAddress {
    /// Only this machine can connect there.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp { address, .. } => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) | Self::Abstract(_) => true,
        }
    }
}

impl fmt::Display for BoundAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { address, tls, path } => {
                write!(f, "{}://{address}{path}", if *tls { "wss" } else { "ws" })
            }
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}

/// A bound socket. Dropping it removes its file (`TLS-02`).
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix {
        /// Dropped before the socket is closed: see there.
        _file: Option<OwnFile>,
        socket: UnixListener,
    },
}

/// The sockets of `host:port`, one for each address of the host.
pub(super) async fn tcp(address: &str) -> Result<Vec<(TcpListener, SocketAddr)>, ListenError> {
    let places = tokio::net::lookup_host(address).await;
    let mut places: Vec<_> = places.map_err(|error| refusal(address, error))?.collect();
    let mut seen = Vec::new();
    places.retain(|place| {
        let new = !seen.contains(place);
        seen.push(*place);
        new
    });
    let chosen = places.iter().any(|place| place.port() == 0) && places.len() > 1;
    let mut tries = if chosen { TRIES } else { 1 };
    loop {
        tries -= 1;
        match each_of(&places, address).await {
            // Free at one address, taken at another.
            Err(error) if tries > 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            sockets => return sockets.map_err(|error| refusal(address, error)),
        }
    }
}

/// Binds all of these at one port. Whatever this machine does not have of a name's addresses is left out.
async fn each_of(places: &[SocketAddr], name: &str) -> io::Result<Vec<(TcpListener, SocketAddr)>> {
    let mut sockets: Vec<(TcpListener, SocketAddr)> = Vec::new();
    let mut absent = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for place in places {
        let mut place = *place;
        if let (0, Some((_, first))) = (place.port(), sockets.first()) {
            place.set_port(first.port());
        }
        match TcpListener::bind(place).await {
            Ok(socket) => {
                let bound = socket.local_addr()?;
                sockets.push((socket, bound));
            }
            Err(error) if is_absent(&error) && places.len() > 1 => {
                info!(address = name, "not listening on {place}: {error}");
                absent = error;
            }
            Err(error) => return Err(error),
        }
    }
    match sockets.is_empty() {
        true => Err(absent),
        false => Ok(sockets),
    }
}

/// The address is none of this machine, or of a family (IPv6, mostly) that it does not speak.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

/// The socket at `path`, in place of a file of one that nobody listens on any more.
pub(super) fn unix(path: &Path, file: &SocketFile) -> Result<Socket, ListenError> {
    let address = format!("unix:{}", path.display());
    if unix::SocketAddr::from_pathname(path).is_err() {
        return Err(ListenError::TooLong { address });
    }
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(ListenError::NotASocket {
                path: path.to_owned(),
            });
        }
        if unix::UnixStream::connect(path).is_ok() {
            return Err(ListenError::InUse { address });
        }
        std::fs::remove_file(path).map_err(|error| refusal(&address, error))?;
    }
    let socket = bound_for(path, file).map_err(|failure| match failure {
        Failure::Owner(error) => ListenError::Owner {
            path: path.to_owned(),
            error,
        },
        Failure::Other(error) => refusal(&address, error),
    })?;
    let file = OwnFile::at(path).map_err(|error| refusal(&address, error))?;
    Ok(Socket::Unix {
        _file: Some(file),
        socket,
    })
}

enum Failure {
    Owner(io::Error),
    Other(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Other(error)
    }
}

/// The socket appears at `path` with its mode and owner: it is bound in a folder nobody else may enter, then moved. (A
/// process's umask would do, but all threads share it.)
fn bound_for(path: &Path, file: &SocketFile) -> Result<UnixListener, Failure> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    let closed = folder.join(format!(".{:x}", rand::random::<u32>()));
    DirBuilder::new().mode(0o700).create(&closed)?;
    let inside = closed.join("s");
    let bound = bound_in(&closed).and_then(|socket| {
        if file.owner.is_some() || file.group.is_some() {
            chown(&inside, file.owner, file.group).map_err(Failure::Owner)?;
        }
        std::fs::set_permissions(&inside, Permissions::from_mode(file.mode))?;
        std::fs::rename(&inside, path)?;
        Ok(socket)
    });
    if bound.is_err() {
        // It may not have come to be.
        let _ = std::fs::remove_file(&inside);
    }
    // An empty folder left behind harms nobody.
    let _ = std::fs::remove_dir(&closed);
    bound
}

/// The socket `s` in a folder, also where that is deeper than a socket's path may be long.
fn bound_in(folder: &Path) -> Result<UnixListener, Failure> {
    let inside = folder.join("s");
    if unix::SocketAddr::from_pathname(&inside).is_ok() {
        return Ok(UnixListener::bind(&inside)?);
    }
    let opened = File::open(folder)?;
    let short = format!("/proc/self/fd/{}/s", opened.as_raw_fd());
    Ok(UnixListener::bind(short)?)
}

/// The socket without a file of this name.
pub(super) fn nameless(name: &str) -> Result<Socket, ListenError> {
    let address = format!("unix:@{name}");
    let place = abstract_address(name).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => ListenError::TooLong {
            address: address.clone(),
        },
        _ => refusal(&address, error),
    })?;
    let socket = unix::UnixListener::bind_addr(&place).and_then(|socket| {
        socket.set_nonblocking(true)?;
        UnixListener::from_std(socket)
    });
    let socket = socket.map_err(|error| refusal(&address, error))?;
    Ok(Socket::Unix {
        _file: None,
        socket,
    })
}

/// `unix:@NAME`: a name in the machine's (strictly, the network namespace's) list of sockets, not in its files.
#[cfg(target_os = "linux")]
pub(crate) fn abstract_address(name: &str) -> io::Result<unix::SocketAddr> {
    use std::os::linux::net::SocketAddrExt;
    unix::SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn abstract_address(_: &str) -> io::Result<unix::SocketAddr> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "this system has no abstract unix sockets",
    ))
}

/// The file of a socket of ours; goes with it, unless somebody else's has taken its place.
pub(super) struct OwnFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl OwnFile {
    fn at(path: &Path) -> io::Result<Self> {
        let found = std::fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            device: found.dev(),
            inode: found.ino(),
        })
    }
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        // While the socket is open nobody else's file can have its inode.
        let is_ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if is_ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_addresses_of_a_name_get_one_port() {
        let places = [
            "127.0.0.1:0".parse().unwrap(),
            "127.0.0.2:0".parse().unwrap(),
        ];
        let sockets = each_of(&places, "name:0").await.unwrap();
        let bound: Vec<_> = sockets.iter().map(|(_, bound)| *bound).collect();
        assert_eq!(bound.len(), 2);
        assert_eq!(bound[0].port(), bound[1].port());
        for address in bound {
            tokio::net::TcpStream::connect(address).await.unwrap();
        }
    }

    #[tokio::test]
    async fn addresses_that_this_machine_lacks_are_left_out_of_a_name_only() {
        let (here, elsewhere) = (
            "127.0.0.1:0".parse().unwrap(),
            "192.0.2.1:0".parse().unwrap(),
        );
        let sockets = each_of(&[elsewhere, here], "name:0").await.unwrap();
        assert_eq!(sockets.len(), 1);
        assert!(each_of(&[elsewhere], "192.0.2.1:0").await.is_err());
    }
}
