//! Connections that are frozen, half closed, or come by an unexpected way.

mod certificates;
mod deflate;
mod listening;
mod peers;
mod stopping;
mod words;
