-- LuaJIT's globals; what scripts use of the router comes from `require "perilune"`.
std = "luajit"
self = false
max_line_length = 120
ignore = { "21./_.*" } -- arguments and loop variables named _… may be unused

-- Editor stubs declare functions without bodies, and wide tables of fields.
files["lua/meta"] = { ignore = { "211", "212", "241" }, max_line_length = false }

-- Tests in busted's style, run by `perilune test`.
files["**/*_test.lua"] = { std = "luajit+busted" }

-- What makes a VM safe does so by replacing the globals.
files["src/lua/prelude.lua"] = { read_globals = { "rawlen" }, ignore = { "121", "122", "631" } }

-- Configurations read environment variables with `env`.
files["**/perilune.lua"] = { std = "luajit", read_globals = { "env" } }
files["lua/perilune.lua"] = { read_globals = {} }
