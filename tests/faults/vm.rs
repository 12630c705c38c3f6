//! Scripts that recurse, grow and spin inside the interpreter.
