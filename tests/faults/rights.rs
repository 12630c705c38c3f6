//! What a rule refuses is refused whatever pattern is around it.
