//! Rows of a history that a disk, or somebody else, has damaged.
//!
//! What must hold: each is an event or none; an event is written as it was read, and can be sent to anybody.

use perilune::server::history_row::{read, write};
use perilune::wire::Serializer;

pub fn rows(octets: &[u8]) {
    let Some(event) = read(octets) else {
        return;
    };
    assert_eq!(read(&write(&event)).as_ref(), Some(&event));
    for serializer in Serializer::ALL {
        // A payload that is no such text cannot be sent, which is told there.
        let _ = event.payload.transcode(serializer);
    }
}
