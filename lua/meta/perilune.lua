---@meta perilune
-- What `local p = require "perilune"` gives, for editors that speak LuaLS. Never loaded by the router.
-- "Anywhere": while loading, in handlers, hooks and timers. "Handlers" are procedures, subscribers and `p.on` functions.

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

---For `return p.result(args, kwargs)`: both kinds of results. Not inside other values. In procedures.
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

---The environment variable of the router's process, or nil. Anywhere. Raises if the script's entry in `perilune.lua` has
---a key `env` that does not name it.
---@param name string
---@return string?
function p.env.get(name) end

---Lines in the router's log, with the script's name; texts are cut at 16 KB. `print` is `info`.
---More than 50 lines a second of one script and level (200 at once) are counted, not shown.
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

-- ── This script ─────────────────────────────────────────────────────────────────────────────────────────────────

---The realm this script is a session of. Anywhere.
---@type string
p.realm = nil

---The script's path, as `scripts` of the configuration names it; its session's authid too. Anywhere.
---@type string
p.script = nil

---This VM's number, from 1 to the script's `instances`. Subscriptions, timers and `p.on` handlers run in instance 1.
---Anywhere.
---@type integer
p.instance = nil

---Handed from the old version of the script to the new one at a reload: data only, no functions. While it loads, the
---new version sees a snapshot; at the switch the old version's keys are copied over it. Anywhere.
---@type table
p.state = {}

-- ── Procedures ──────────────────────────────────────────────────────────────────────────────────────────────────

---What a procedure gets.
---@class perilune.call
---@field args any[] positional arguments
---@field kwargs table<string, any> keyword arguments; empty if there are none
---@field details perilune.call.details
---@field request integer the invocation's id
---@field cancelled boolean the caller gave up, or the call is over
---@field more boolean chunks follow the one the handler had last (see `chunks`)
local call = {}

---@class perilune.call.details
---@field procedure string the URI that was called (the pattern's match, for pattern-based registrations)
---@field caller? integer session id, if the caller is disclosed
---@field caller_authid? string as `caller`
---@field caller_authrole? string as `caller`
---@field receive_progress? boolean the caller takes progressive results
---@field timeout? integer milliseconds; told with `forward_timeout` only
---@field trustlevel? integer
---@field progress? boolean `args` and `kwargs` are the first chunk of several
---@field ppt_scheme? string the payload is in an encoding of the application's own (payload passthru mode)
---@field ppt_serializer? string
---@field ppt_cipher? string
---@field ppt_keyid? string

---Sends a progressive result if the caller asked for them; returns whether it did. In procedures.
---@param args? any[] default: none
---@param kwargs? table<string, any> default: none
---@return boolean sent
function call:progress(args, kwargs) end

---The input of a call that comes in chunks: `for args, kwargs in call:chunks() do`. The first are `call.args` and
---`call.kwargs`; then the loop waits for each and ends behind the last one (which counts only if it has args or kwargs).
---A later loop goes on where this one was left. Raises "wamp.error.canceled" when the call is over. A handler that does
---not ask for chunks may answer all the same. Chunks that wait for it hold 1 MB for each call at most; more fail the
---call with "wamp.error.unavailable". The handler's deadline begins anew with each chunk it waited for. In procedures.
---@async
---@return fun(): args: any[]?, kwargs: table<string, any>?
function call:chunks() end

---Has the results of this call, progressive ones included, say that they are in an encoding of the application's own.
---In procedures.
---@param options perilune.passthru
function call:passthru(options) end

---Payload passthru mode: the router carries these as they are.
---@class perilune.passthru
---@field ppt_scheme? string the others need it; default: none
---@field ppt_serializer? string default: none
---@field ppt_cipher? string default: none
---@field ppt_keyid? string default: none

---What `p.register` gives.
---@class perilune.registration
---@field id? integer the registration's id, once the version is in, until it is given up or revoked
---@field uri string
local registration = {}

---Takes the procedure back. In handlers, not while loading.
function registration:unregister() end

---@class perilune.register.options
---@field match? "exact"|"prefix"|"wildcard" default: "exact"
---@field invoke? "single"|"roundrobin"|"random"|"first"|"last"|"sharded" how a shared registration chooses; default: "single"
---@field disclose_caller? boolean asks the router to name callers; default: false
---@field forward_timeout? boolean leaves time-outs of calls to the handler; default: false
---@field concurrency? integer calls it takes at once, over all its VMs; more wait in the router; default: no limit
---@field nkey? string with `invoke = "sharded"`, and needed there: the node this script is; default: none

---Registers a procedure. Values the handler returns are the result's args (`p.result` for kwargs too); an error it
---raises goes to the caller: `p.error` unchanged, anything else as `wamp.error.runtime_error`. If others have registered
---the procedure, too, "wamp.error.unavailable" passes the call on to the next of them.
---At the top level of the script it is staged until the version is in; in handlers it waits for the router.
---@async
---@param uri string
---@param handler async fun(call: perilune.call): ...
---@param options? perilune.register.options
---@return perilune.registration
function p.register(uri, handler, options) end

---`registration:unregister()`. In handlers, not while loading.
---@param handle perilune.registration
function p.unregister(handle) end

---What `p.call` returns.
---@class perilune.reply
---@field args any[] positional results
---@field kwargs table<string, any> keyword results; empty if there are none
---@field details perilune.reply.details
local reply = {}

---@class perilune.reply.details
---@field progress? boolean
---@field nkey? string the node that answers, with `runmode = "all"`
---@field ppt_scheme? string as in `perilune.call.details`
---@field ppt_serializer? string
---@field ppt_cipher? string
---@field ppt_keyid? string

---Gives up the call of a progressive result; `p.call` then raises "wamp.error.canceled", or with "kill" what the
---procedure answers. Nothing happens for other results. In handlers.
---@param mode? "killnowait"|"kill"|"skip" default: "killnowait"
function reply:cancel(mode) end

---@class perilune.call.options: perilune.passthru
---@field timeout? number milliseconds; default: 0, which is `limits.call_timeout`
---@field disclose_me? boolean asks the router to name this script to the callee; default: false
---@field on_progress? async fun(reply: perilune.reply) gets the progressive results; default: none are asked for
---@field chunks? async fun(): args: any[]?, kwargs: table<string, any>?, last: boolean? the input after `args` and `kwargs`, chunk by chunk until it returns nothing or `last`; what it raises ends the call; default: the call is whole
---@field rkey? string routing key of a sharded procedure; default: none
---@field runmode? "partition"|"all" with "all" every node of a sharded procedure is called; default: "partition"

---Calls a procedure and waits for its result. Raises a `perilune.error` if it fails. A handler that is ended while it
---waits gives the call up. In handlers, hooks and timers, not
---while loading.
---@async
---@param uri string
---@param args? any[] default: none
---@param kwargs? table<string, any> default: none
---@param options? perilune.call.options
---@return perilune.reply
function p.call(uri, args, kwargs, options) end

---A WAMP error, as `pcall` catches it; `tostring` gives its URI and first argument.
---@class perilune.error
---@field uri string
---@field args? any[]
---@field kwargs table<string, any>

---Raises a WAMP error. In a procedure it reaches the caller unchanged, in a login function it refuses. Anywhere.
---@param uri string
---@param args? any[] default: none
---@param kwargs? table<string, any> default: none
function p.error(uri, args, kwargs) end

-- ── Topics ──────────────────────────────────────────────────────────────────────────────────────────────────────

---What a subscriber gets.
---@class perilune.event
---@field args any[] positional arguments
---@field kwargs table<string, any> keyword arguments; empty if there are none
---@field topic string the topic it was published to
---@field publication integer
---@field publisher? integer session id, if the publisher is disclosed
---@field retained? boolean it was published before, and kept
---@field details perilune.event.details

---@class perilune.event.details
---@field topic string
---@field publisher? integer session id, if the publisher is disclosed
---@field publisher_authid? string as `publisher`
---@field publisher_authrole? string as `publisher`
---@field trustlevel? integer
---@field retained? boolean
---@field ppt_scheme? string as in `perilune.call.details`
---@field ppt_serializer? string
---@field ppt_cipher? string
---@field ppt_keyid? string

---What `p.subscribe` gives.
---@class perilune.subscription
---@field id? integer the subscription's id, once the version is in, until it is given up or revoked
---@field uri string
local subscription = {}

---Takes the subscription back. In handlers, not while loading.
function subscription:unsubscribe() end

---@class perilune.subscribe.options
---@field match? "exact"|"prefix"|"wildcard" default: "exact"
---@field ordered? boolean one handler at a time, the next event when it has ended; default: false
---@field get_retained? boolean this handler gets what is retained, first and after each reload; default: false
---@field nkey? string node key: of publications with a routing key only those of this node come; default: all come

---Subscribes to a topic. Handlers start in the order of the events, in instance 1, and may overlap where they wait.
---At the top level of the script it is staged until the version is in; in handlers it waits for the router.
---@async
---@param topic string
---@param handler async fun(event: perilune.event)
---@param options? perilune.subscribe.options
---@return perilune.subscription
function p.subscribe(topic, handler, options) end

---`subscription:unsubscribe()`. In handlers, not while loading.
---@param handle perilune.subscription
function p.unsubscribe(handle) end

---@class perilune.publish.options: perilune.passthru
---@field acknowledge? boolean waits for the publication's id; not while loading; default: false
---@field exclude_me? boolean does not reach this script's own subscriptions; default: true
---@field disclose_me? boolean asks the router to name this script; default: false
---@field retain? boolean | "clear" kept for later subscribers that ask for it; "clear": what is kept of the topic is forgotten, this event goes out and is not kept; default: false
---@field rkey? string routing key: of subscribers with node keys only one node's get it; default: all
---@field exclude? integer[] session ids that do not get it; default: none
---@field exclude_authid? string[] default: none
---@field exclude_authrole? string[] default: none
---@field eligible? integer[] only these session ids get it; default: all
---@field eligible_authid? string[] default: all
---@field eligible_authrole? string[] default: all

---Publishes an event. While loading it is staged until the version is in; with `acknowledge` it waits, else not.
---Anywhere.
---@async
---@param topic string
---@param args? any[] default: none
---@param kwargs? table<string, any> default: none
---@param options? perilune.publish.options
---@return integer|true publication the publication's id with `acknowledge`, else true
function p.publish(topic, args, kwargs, options) end

-- ── Hooks ───────────────────────────────────────────────────────────────────────────────────────────────────────

---Who wants to log in.
---@class perilune.login
---@field method "anonymous"|"ticket"|"wampcra"|"scram"|"cryptosign"|"jwt"|"cookie"|"tls"
---@field realm string
---@field session integer the id the session will have
---@field authid? string whom the client claims to be; with `claims`, whom the token names
---@field authextra table<string, any>
---@field ticket? string with method "ticket"
---@field token? string with method "jwt"
---@field cookie? string with method "cookie": its value, decoded; empty where there is none
---@field claims? table<string, any> with method "jwt": what the token says, if the configured keys vouch for it
---@field transport perilune.login.transport

---@class perilune.login.transport
---@field peer string address and port (no port where a proxy names none), or "unix"
---@field kind "websocket"|"rawsocket"|"longpoll"|"http"
---@field tls boolean
---@field certificate? perilune.login.certificate the client's, signed by one of the listener's `client_ca`
---@field http { path: string, headers: table<string, string> } the upgrade request; header names in lower case, a repeated header's values joined by commas; a procedure gets the headers that `headers` of its method names
---@field cookies table<string, string> not for a procedure, unless `headers` of its method names `cookie`

---@class perilune.login.certificate
---@field common_name? string of the subject
---@field names { kind: "dns"|"email"|"uri"|"ip", name: string }[] its alternative names
---@field fingerprint string SHA-256 of the certificate, in lower-case hex

---A login function's yes.
---@class perilune.granted
---@field role string
---@field authid? string default: the one the client claimed; "jwt" cannot do without, unless there are `claims`
---@field realm? string the realm, for a client that named none (in the configuration only); default: the client's
---@field extra? table<string, any> for the client, in WELCOME; default: none
---@field secret? string "wampcra": the shared secret; with `salt`, the derived key in Base64
---@field password? string "wampcra": in place of `secret`; "scram": in place of keys; the router derives them
---@field salt? string "wampcra": default: none; "scram": Base64, default with `password`: one of the router's
---@field iterations? integer "wampcra", with `salt`: default: 1000; "scram": default: 15000, with argon2id13 2
---@field keylen? integer "wampcra", with `salt`; default: 32
---@field kdf? "pbkdf2"|"argon2id13" "scram": default: "pbkdf2"
---@field memory? integer "scram", with argon2id13: KiB; default: 19456
---@field stored_key? string "scram": 64 hex digits
---@field server_key? string "scram": 64 hex digits
---@field pubkey? string "cryptosign": the key that proves who they are, 64 hex digits
---@field authorized_keys? string[] "cryptosign": several of them

---Answers logins of one method. It returns a role, or a table with `role`; nil (and a reason for the log) refuses. For
---"wampcra" it gives the secret, for "scram" a password or its keys, for "cryptosign" the public keys, and the router
---checks the signature. A "jwt" is checked by the function itself, which then names the `authid` too, unless the router
---has a key for it: then it is asked only about the role. The role "script" is refused. Static users of the configuration come first. "wamp-scram" and "scram" are one method.
---While loading only; one per method and realm.
---@param method "anonymous"|"ticket"|"wampcra"|"scram"|"wamp-scram"|"cryptosign"|"jwt"|"cookie"|"tls"
---@param authenticator async fun(login: perilune.login): (perilune.granted|string|nil), string?
function p.authenticate(method, authenticator) end

---Somebody with a session.
---@class perilune.session
---@field realm string
---@field session integer
---@field authid string
---@field authrole string
---@field authmethod string
---@field authprovider string
---@field authextra? table<string, any>

---@class perilune.verdict
---@field allow boolean
---@field disclose? boolean names the caller or publisher to the other side; default: false
---@field cache? boolean|number seconds the answer holds for session, action and URI; true: with the session; default: false

---A rule that the router applies by itself while it is cached: to every request of the session it covers.
---@class perilune.verdict.rule
---@field uri string URI or pattern; must cover what was asked
---@field match? "exact"|"prefix"|"wildcard" default: "exact"
---@field allow perilune.action[] what is allowed there; everything else is refused
---@field disclose? { caller?: boolean, publisher?: boolean } true: always, false: never; default: as asked
---@field cache? boolean|number seconds the rule holds for the session; true: as long as it lives; default: this once

---@alias perilune.action "call"|"register"|"publish"|"subscribe"

---@class perilune.authorize.options
---@field match "exact"|"prefix"|"wildcard" of a subscription or registration
---@field disclose_me boolean the client asks to be named

---@alias perilune.authorizer async fun(session: perilune.session, action: perilune.action, uri: string, options: perilune.authorize.options): boolean|perilune.verdict|perilune.verdict.rule

---Decides what no rule of the configuration decides. While loading only; one per realm.
---@param authorizer perilune.authorizer
function p.authorize(authorizer) end

---Whom a purge or recheck is about; what is absent does not matter.
---@class perilune.whom
---@field session? integer
---@field authid? string
---@field authrole? string

---Forgets what authorizers said about these sessions (without an argument: all of the realm): their next request asks
---again. In handlers.
---@param whom? perilune.whom
function p.purge(whom) end

---Forgets as `p.purge`, and asks again about every subscription and registration these sessions hold. What is no longer
---allowed is revoked: clients that know revocation get UNSUBSCRIBED or UNREGISTERED with the reason
---"wamp.error.not_authorized". In handlers.
---@param whom? perilune.whom
function p.reauthorize(whom) end

---Runs the function at an event of this script's life or of its realm, in instance 1: "start" when a version is in,
---"reload" after it if there was one before, "shutdown" before the router ends, "join" and "leave" for each client.
---While loading only.
---@param event "start"|"reload"|"shutdown"|"join"|"leave"
---@param handler async fun(session?: perilune.session) the session with "join" and "leave"
function p.on(event, handler) end

---Describes a procedure, topic or error for `wamp.reflect.describe`, as soon as the version is in; a realm with
---`validate` holds calls and publications to it. A description stays until a later version describes the same URI
---anew, or the script goes. While loading only.
---@param uri string
---@param description table `type` ("procedure", "topic", "error"); optional `match`, `title`, `description`, `args`, `kwargs`, `result`, `errors` (JSON Schemas), `examples`, and keys that begin with `_`
function p.describe(uri, description) end

-- ── Time ────────────────────────────────────────────────────────────────────────────────────────────────────────

---What `p.every`, `p.after` and `p.cron` give. Timers end with their version of the script.
---@class perilune.timer
local timer = {}

---Stops the timer; harmless if it is over. Anywhere.
function timer:cancel() end

---Runs the function every so many seconds, from one period after the version is in. A tick is left out while the last
---run goes on. Anywhere.
---@param seconds number from 0.001
---@param handler async fun()
---@return perilune.timer
function p.every(seconds, handler) end

---Runs the function once. Anywhere.
---@param seconds number from 0
---@param handler async fun()
---@return perilune.timer
function p.after(seconds, handler) end

---Runs the function when the schedule says, in local time. Anywhere.
---@param schedule string minute, hour, day of month, month, day of week: "0 7 * * 1-5"; of six fields the first is the second: "*/10 * * * * *"
---@param handler async fun()
---@return perilune.timer
function p.cron(schedule, handler) end

---Runs the function beside this one; it may loop for as long as its version is in. Anywhere.
---@param handler async fun()
function p.spawn(handler) end

---Waits; other handlers of the script go on. In handlers, hooks and timers, not while loading.
---@async
---@param seconds number from 0
function p.sleep(seconds) end

return p
