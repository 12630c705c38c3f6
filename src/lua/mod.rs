//! The script host: LuaJIT VMs on dedicated threads, each an in-process session of its realm.

pub mod config;
