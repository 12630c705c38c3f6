-- What the clients of tests/interop meet: every login of the realm once as a static table and once by script.

-- PBKDF2-HMAC-SHA256 of "salted secret" with the salt and rounds below, in Base64: what a router keeps of such a user.
local DERIVED = "P4Hw5tESOveRdVNoueh+Le8hzOOZHV4pwob5yYU/iog="

-- The folder of a certificate, from tests over TLS.
local tls = env("INTEROP_TLS", "")

return {
  listen = {
    addr = "127.0.0.1:0",
    tls = tls ~= "" and { cert = tls .. "/cert.pem", key = tls .. "/key.pem" } or nil,
    -- Autobahn offers it, in Python and JavaScript alike.
    deflate = tls ~= "" and { context_takeover = true, window_bits = 12 } or true,
  },
  limits = { idle_ping = "1s" },
  realms = {
    interop = {
      history = { { uri = "interop.topic.kept", match = "prefix", limit = 100 } },
      auth = {
        anonymous = { role = "guest" },
        ticket = { users = { joe = { secret = "joe's ticket", role = "member" } } },
        wampcra = {
          users = {
            ann = { secret = "ann's secret", role = "member" },
            sal = { secret = DERIVED, salt = "sea salt", iterations = 500, keylen = 32, role = "member" },
            sue = { password = "sue's password", salt = "rock salt", role = "member" },
          },
        },
        -- Not PBKDF2, on which Autobahn's own code fails (it does not decode the salt). Small parameters: many tests.
        scram = {
          users = {
            kim = { password = "kim's password", kdf = "argon2id13", iterations = 2, memory = 512, role = "member" },
          },
        },
        cryptosign = {
          keys = {
            -- Of the private key 0101…
            ["8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c"] = { authid = "hub", role = "member" },
          },
        },
      },
      roles = {
        guest = {
          { uri = "interop.", match = "prefix", allow = { "call", "subscribe" } },
        },
        member = {
          {
            uri = "interop.",
            match = "prefix",
            allow = { "call", "register", "publish", "subscribe" },
            disclose = { caller = true, publisher = true },
          },
          -- Here it is the client's to say whether it is named.
          { uri = "interop.quiet.", match = "prefix", allow = { "call", "register", "publish", "subscribe" } },
          { uri = "wamp.", match = "prefix", allow = { "call", "subscribe" } },
        },
      },
      scripts = { "logins.lua", "procedures.lua", "topics.lua" },
    },
  },
}
