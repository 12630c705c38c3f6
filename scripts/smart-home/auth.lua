-- The front door: how residents log in.

local p = require "perilune"
local residents = require "residents"

-- The ticket arrives as it is; this function compares.
p.authenticate("ticket", function(login)
  local resident = residents[login.authid]
  if resident and resident.ticket and p.crypto.equal(login.ticket, resident.ticket) then
    return { role = "resident" }
  end
  return nil, "no resident with this ticket" -- for the log; the client is told no more than "denied"
end)

-- The router sends a challenge and checks its signature; this function only knows the secret.
p.authenticate("wampcra", function(login)
  local resident = residents[login.authid]
  if resident and resident.secret then
    return { role = "resident", secret = resident.secret }
  end
  return nil, "no resident with a secret"
end)

p.on("join", function(session)
  p.log.info(("%s came in as %s"):format(session.authid, session.authrole))
end)

p.on("leave", function(session)
  p.log.info(("%s went away"):format(session.authid))
end)
