//! Logins by strangers: what they cost, and whom they let in.

mod before_login;
mod ends;
mod http;
