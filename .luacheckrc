-- LuaJIT's globals; what scripts use of the router comes from `require "perilune"`.
std = "luajit"
self = false
max_line_length = 120
ignore = { "21./_.*" } -- arguments and loop variables named _… may be unused

-- Editor stubs declare functions without bodies.
files["lua/meta"] = { ignore = { "212", "211", "241" } }

-- Tests in busted's style, run by `perilune test`.
files["**/*_test.lua"] = { std = "luajit+busted" }
