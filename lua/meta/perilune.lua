---@meta perilune
-- What `local p = require "perilune"` gives, for editors that speak LuaLS. Never loaded by the router.
-- "Anywhere": while loading, in handlers, hooks, timers and the configuration file.

---@class perilune
local p = {}

-- ── Values ──────────────────────────────────────────────────────────────────────────────────────────────────────

---A value that is null on the wire; an incoming null is always this. Anywhere.
---@type lightuserdata
p.null = nil

---Binary: `tostring(b)` gives its octets, `#b` their number, `==` compares them.
---@class perilune.bytes: userdata
---@operator len: integer

---Both args and kwargs of an answer.
---@class perilune.result

---Marks `list` (default: a new table) as a list even when it is empty, and returns it. Its items must have no holes. Anywhere.
---@generic T: table
---@param list? T
---@return T
function p.array(list) end

---Marks `map` (default: a new table) as a map, and returns it; number keys go out as text. Anywhere.
---@generic T: table
---@param map? T
---@return T
function p.map(map) end

---A binary value of the octets of a string. Anywhere.
---@param octets string|perilune.bytes
---@return perilune.bytes
function p.bytes(octets) end

---For `return p.result(args, kwargs)` in a procedure: both kinds of results. Nowhere else in a value.
---@param args? any[] default: none
---@param kwargs? table<string, any> default: none
---@return perilune.result
function p.result(args, kwargs) end

-- ── Serializers ─────────────────────────────────────────────────────────────────────────────────────────────────

---@class perilune.json
p.json = {}

---JSON of a value; raises where it cannot be written, naming the path. A plain `{}` is a map. Anywhere.
---@param value any
---@return string
function p.json.encode(value) end

---The value of JSON text; nil and a message with the position if it is malformed. Anywhere.
---@param text string|perilune.bytes
---@return any value
---@return string? err
function p.json.decode(text) end

---@class perilune.msgpack
p.msgpack = {}

---MessagePack of a value; raises where it cannot be written. Anywhere.
---@param value any
---@return string
function p.msgpack.encode(value) end

---The value of MessagePack octets; nil and a message with the position if they are malformed. Anywhere.
---@param octets string|perilune.bytes
---@return any value
---@return string? err
function p.msgpack.decode(octets) end

---@class perilune.cbor
p.cbor = {}

---CBOR of a value; raises where it cannot be written. Anywhere.
---@param value any
---@return string
function p.cbor.encode(value) end

---The value of CBOR octets; nil and a message with the position if they are malformed. Anywhere.
---@param octets string|perilune.bytes
---@return any value
---@return string? err
function p.cbor.decode(octets) end

---@class perilune.base64
p.base64 = {}

---Base64 with padding. Anywhere.
---@param octets string|perilune.bytes
---@return string
function p.base64.encode(octets) end

---The octets of Base64 with or without padding; nil and a message if it is none. Anywhere.
---@param text string
---@return string? octets
---@return string? err
function p.base64.decode(text) end

-- ── Crypto ──────────────────────────────────────────────────────────────────────────────────────────────────────

---@alias perilune.hash "sha256"|"sha512"

---Octets in and out; see `hex`.
---@class perilune.crypto
p.crypto = {}

---SHA-256, 32 octets. Anywhere.
---@param octets string|perilune.bytes
---@return string
function p.crypto.sha256(octets) end

---SHA-512, 64 octets. Anywhere.
---@param octets string|perilune.bytes
---@return string
function p.crypto.sha512(octets) end

---HMAC (RFC 2104). Anywhere.
---@param algorithm perilune.hash
---@param key string|perilune.bytes
---@param octets string|perilune.bytes
---@return string
function p.crypto.hmac(algorithm, key, octets) end

---Random octets of the operating system, fit for keys. Anywhere.
---@param count integer 0 to 65536
---@return string
function p.crypto.random(count) end

---PBKDF2 (RFC 8018). Nothing interrupts it: 200,000 rounds take about the default CPU budget. Anywhere.
---@param algorithm perilune.hash
---@param password string|perilune.bytes
---@param salt string|perilune.bytes
---@param rounds integer from 1; times the hash-sized blocks of `length` at most 1,000,000
---@param length integer 1 to 1024 octets
---@return string
function p.crypto.pbkdf2(algorithm, password, salt, rounds, length) end

---Whether two strings are equal, in a time that depends on their lengths only. Anywhere.
---@param a string|perilune.bytes
---@param b string|perilune.bytes
---@return boolean
function p.crypto.equal(a, b) end

---Lower-case hexadecimal digits. Anywhere.
---@param octets string|perilune.bytes
---@return string
function p.crypto.hex(octets) end

---The octets of hexadecimal digits; nil and a message if they are none. Anywhere.
---@param digits string
---@return string? octets
---@return string? err
function p.crypto.unhex(digits) end

-- ── Environment and log ─────────────────────────────────────────────────────────────────────────────────────────

---`p.env "NAME"` is `p.env.get("NAME")`.
---@class perilune.env
---@overload fun(name: string): string?
p.env = {}

---The environment variable of the router's process, or nil. Anywhere.
---@param name string
---@return string?
function p.env.get(name) end

---Lines in the router's log, with the script's name; texts are cut at 16 KB. `print` is `info`.
---@class perilune.log
p.log = {}

---A line for developers. Anywhere.
---@param text string|number|boolean|nil
---@param fields? table<string, any> shown as JSON
function p.log.debug(text, fields) end

---A line about what happened. Anywhere.
---@param text string|number|boolean|nil
---@param fields? table<string, any> shown as JSON
function p.log.info(text, fields) end

---A line about what should not be so. Anywhere.
---@param text string|number|boolean|nil
---@param fields? table<string, any> shown as JSON
function p.log.warn(text, fields) end

---A line about what failed. Anywhere.
---@param text string|number|boolean|nil
---@param fields? table<string, any> shown as JSON
function p.log.error(text, fields) end

-- ── Shared dictionaries ─────────────────────────────────────────────────────────────────────────────────────────

---@alias perilune.key string|number

---A dictionary that all scripts of a realm share and that survives reloads. `d[k]` and `d[k] = v` are `get` and
---`set` without a time to live; the functions' names win over keys when indexing. Values are copied. Writing beyond
---`limits.shared` (64 MB) raises.
---@class perilune.dictionary
---@field [perilune.key] any
local dictionary = {}

---The realm's dictionary of that name (empty at first). Anywhere.
---@param name string
---@return perilune.dictionary
function p.shared(name) end

---A copy of the value, or nil. Anywhere.
---@param key perilune.key
---@return any
function dictionary:get(key) end

---Stores a copy of the value; nil removes. Anywhere.
---@param key perilune.key
---@param value any
---@param ttl? number seconds, above 0; default: for ever
function dictionary:set(key, value, ttl) end

---Stores the value if there is none; returns whether it did. Anywhere.
---@param key perilune.key
---@param value any
---@param ttl? number seconds, above 0; default: for ever
---@return boolean
function dictionary:add(key, value, ttl) end

---Adds to a number (0 if there is none) and returns the sum; the time to live stays. Anywhere.
---@param key perilune.key
---@param by? number default: 1
---@return number
function dictionary:incr(key, by) end

---Replaces the value if it equals `old` (nil: there is none) by `new` (nil: removed); returns whether it did. The
---time to live stays. Anywhere.
---@param key perilune.key
---@param old any
---@param new any
---@return boolean
function dictionary:cas(key, old, new) end

---Seconds until the value expires; nil if it does not or is not there. Anywhere.
---@param key perilune.key
---@return number?
function dictionary:ttl(key) end

---Removes the value; returns whether there was one. Anywhere.
---@param key perilune.key
---@return boolean
function dictionary:delete(key) end

---All keys, in no order. Anywhere.
---@return perilune.key[]
function dictionary:keys() end

-- ── Session: register, subscribe, publish, call, hooks, timers ──────────────────────────────────────────────────
-- (the script host's part)

return p
