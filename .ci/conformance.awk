# Counts the rows of tests/conformance/requirements.md per section: tested, untested, not offered.

BEGIN { FS = " *[|] *"; row("section", "tested", "untested", "not offered") }

/^## / { section = substr($0, 4) }

NF == 5 && $2 ~ /[0-9]/ {
  split($3, state, " ")
  if (!((section) in known)) { known[section]; order[++sections] = section }
  count[section, state[1]]++
  count["all", state[1]]++
}

END {
  order[++sections] = "all"
  for (i = 1; i <= sections; i++) {
    name = order[i]
    row(name, count[name, "tested"] + 0, count[name, "untested"] + 0, count[name, "not"] + 0)
  }
}

function row(name, tested, untested, absent) { printf "%-40s %8s %10s %13s\n", name, tested, untested, absent }
