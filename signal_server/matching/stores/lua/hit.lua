-- KEYS     counts
-- ARGV[1]  their rates, as in counts.lua
-- Returns nothing, or the number of the first that is full, and the ms until its window ends.
return { full_count(KEYS, 1, ARGV[1]) }
