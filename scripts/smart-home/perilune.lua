-- A smart home: where it listens, who may come in, what they may do, and which scripts run in it.
-- Everything here, this file too, is reloaded the moment it is saved.

return {
  listen = "127.0.0.1:8080",

  -- For curl and browsers: README.md, "From curl".
  http = {
    call = { ["/call"] = { realm = "home", auth = "ticket" } },
    publish = { ["/publish"] = { realm = "home", auth = "ticket" } },
    events = { ["/events"] = { realm = "home", auth = "anonymous" } },
  },

  realms = {
    home = {
      -- Guests need no login. Residents log in by ticket or WAMP-CRA: `auth.lua` answers for them.
      auth = { anonymous = { role = "guest" } },

      -- What no rule allows is refused.
      roles = {
        -- Guests may look.
        guest = {
          { uri = "sensor.events", allow = { "subscribe" } },
          { uri = "status.change", allow = { "subscribe" } },
        },
        -- Residents may do everything, and the scripts are told who does.
        resident = {
          {
            uri = "",
            match = "prefix",
            allow = { "call", "register", "publish", "subscribe" },
            disclose = { caller = true },
          },
        },
      },

      -- Each runs in a Lua of its own. They know each other by what they call and publish only.
      scripts = { "auth.lua", "living_room.lua", "bath_room.lua", "fans.lua", "rules.lua", "health.lua" },
    },
  },
}
