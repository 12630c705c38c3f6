//! Tasks and transports: everything that touches a socket or the clock.

pub mod settings;
