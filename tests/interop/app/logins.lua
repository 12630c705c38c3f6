-- Users that only a script knows.

local p = require "perilune"

p.authenticate("ticket", function(login)
  if login.authid == "lua-joe" and p.crypto.equal(login.ticket, "lua-joe's ticket") then
    return { role = "member", extra = { asked = login.realm } }
  end
  return nil, "neither joe nor lua-joe"
end)

p.authenticate("wampcra", function(login)
  if login.authid == "lua-ann" then
    return { secret = "lua-ann's secret", role = "member" }
  end
  return nil, "no such user"
end)
