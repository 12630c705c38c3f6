//! Tasks and transports: everything that touches a socket or the clock.

mod batched;
mod bind;
mod clock;
mod connection;
mod cookies;
mod files;
pub mod frames;
mod guest;
mod history;
mod hooks;
mod http;
mod listener;
mod outbox;
mod proxy;
pub(crate) mod rawsocket;
mod realm;
mod router;
mod seats;
mod session_ids;
pub mod settings;
mod stream;
mod timer;
mod tls;
mod websocket;

pub(crate) use bind::abstract_address;
pub use bind::{BoundAddress, ListenError};
pub use clock::Clock;
pub use files::raise_open_files;
pub use guest::{Guest, Unanswered};
pub use history::{HistoryStore, StoreError, row as history_row};
pub use hooks::{Hooks, SessionChange, TransportInfo};
pub(crate) use http::METHODS as HTTP_METHODS;
pub use listener::Listener;
pub use realm::{LocalSession, RealmClosed, RealmCounts, RealmHandle, RealmStep};
pub use router::Router;
pub use tls::{AlternativeName, ClientCertificate, TlsError, check_tls};
