-- Users that only a script knows.

local p = require "perilune"

p.authenticate("ticket", function(login)
  if login.authid == "lua-joe" and p.crypto.equal(login.ticket, "lua-joe's ticket") then
    return { role = "member", extra = { asked = login.realm } }
  end
  return nil, "neither joe nor lua-joe"
end)

p.authenticate("scram", function(login)
  if login.authid == "lua-kim" then
    return { password = "lua-kim's password", kdf = "argon2id13", iterations = 2, memory = 512, role = "member" }
  end
  return nil, "no such user"
end)

p.authenticate("cryptosign", function(login)
  if login.authid == "lua-hub" then
    -- Of the private key 0202…
    return { pubkey = "8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394", role = "member" }
  end
  return nil, "no such key"
end)

p.authenticate("wampcra", function(login)
  if login.authid == "lua-ann" then
    return { secret = "lua-ann's secret", role = "member" }
  end
  return nil, "no such user"
end)
