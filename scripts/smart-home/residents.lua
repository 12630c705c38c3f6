-- Who lives here. Save a change and it holds for the next login: `auth.lua` requires this file.
-- (In a real home the secrets would come from a database, or from the environment: p.env "JOES_TICKET".)

return {
  joe = { ticket = "joe's ticket" }, -- logs in by ticket
  ann = { secret = "ann's secret" }, -- logs in by WAMP-CRA: the secret itself never travels
}
