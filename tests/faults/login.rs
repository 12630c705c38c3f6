//! Logins by strangers: what they cost, and whom they let in.
