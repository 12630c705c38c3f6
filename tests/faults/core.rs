//! Messages that cost a realm more than they carry.
