//! Tasks and transports: everything that touches a socket or the clock.
