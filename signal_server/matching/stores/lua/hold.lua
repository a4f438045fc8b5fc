-- KEYS[1]    the places of an address
-- ARGV[1-3]  ms for which one is kept, how many there are, the ticket that takes one
-- Returns 1, or 0 if it is one too many.
return take_place(KEYS[1], ARGV[1], ARGV[2], ARGV[3], server_ms()) and 1 or 0
