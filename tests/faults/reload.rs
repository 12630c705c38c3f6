//! Files that change in every way there is.
