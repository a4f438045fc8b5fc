-- What lies in the keys of one shard, and how an event reads and writes it. `rules.lua` decides.
--
-- `counts.lua`, this text, `rules.lua` and the events make one library of functions; or, where the server has no
-- functions, the first three and one event make a script. See redis_scripts.py.
--
-- The names of OFFERS and those behind it hold the epoch, the life of the Redis server: what another life wrote,
-- which may have forgotten its last words, is not seen again.
-- All members of INDEX and MAIL have the score 0, so they stand in the order of their bytes. Their parts are
-- parted by a blank, which sorts before anything that a part may hold.
-- Where something is missing that should be there, a server that was short of memory has evicted its key. The
-- rest then counts as gone.
--
-- KEYS  1 PAIRS      sorted set: "pool peer peer", by twice the time at which it is forgotten, and 1 more if
--                    one of them bounced the other's offer
--       2 LIFE       string: OFFERS of the life that wrote last
--       3 OFFERS     hash: "ticket" -> an offer, "ticket s" -> its signal; and "count" -> the last number that was
--                    given out, so it is never empty
--       4 HANDOVERS  hash: nonce -> a handover
--       5 DUE        sorted set, by the time at which it runs out: "nonce n", "ticket t", the "owner o" whose lease
--                    it is, and "ticket l" of one whose LEAVE came before it
--       6 INDEX      sorted set: "o owner ticket", all offers
--                                "p pool peer place ticket", those that wait; one that somebody let lapse has its
--                                ticket in place of its peer
--                                "h pool place ticket", the oldest of them of each peer, and each that lapsed
--                                "q pool peer place ticket", those that wait and say REMATCH
--                                "r pool place ticket", the oldest of these of each peer, and each that lapsed
--       7 MAIL       sorted set: "owner number delivery", what an owner has not fetched yet
--       8...         counts, which are hit or looked at before the event is begun, and the places that it may
--                    need one of; see counts.lua
-- ARGV  1            what is the same for all calls: times in ms (request, answer, write, pair memory, lease), and
--                    the shard's number, with which a nonce begins
--       2            the call: the owner (one life of one process in this shard), "1" if this life begins
--                    now, the time in ms, or "-" for the server's own, and the rates of the counts; see
--                    counts.lua
--       3            a secret that was never used before, of which the nonces are made
--       4...         the event's own
--
-- Returns { status, good, responder, deliveries, ... }
--       status      "OK"; "LAPSED": the owner's lease is over, nothing was done; "AGAIN": so much had run out
--                   of time that the event was not begun, call again; or "FULL": neither was it, for a count is
--                   full; then come its number and the ms until its window ends
--       deliveries  { ticket, type, nonce, signal, ... } of the caller's own requests, four values each

-- The fields of each record, by which it is packed and unpacked.
local ARRIVAL = { 'ticket', 'pool', 'peer', 'bearer', 'digest', 'wait', 'rematch', 'named' }
local WORD = '^' .. ('(%S*) '):rep(#ARRIVAL - 1) .. '(%S*)$'
local OFFER = {
  'ticket', 'pool', 'peer', 'bearer', 'owner', 'place', 'deadline', 'rematch',
  'lapsed', -- "peer peer ": those that had it and did not answer in time, or nil
}
local REPLIER = { 'ticket', 'owner', 'peer', 'bearer', 'rematch' }
local HANDOVER = {
  'pool', 'initiator', 'responder', 'bearer',
  'ticket', -- of the offer, which is not there if the initiator has left or was answered
  'to', -- the ticket that it was handed to
  'stage', -- "offered", "answered" or "delivered"
  'digest', 'repliers',
}

local PAIRS, LIFE, OFFERS, HANDOVERS, DUE, INDEX, MAIL
local COMMON, REQUEST, ANSWER, WRITE, PAIR_MEMORY, LEASE, SHARD
local OWNER, BEGINS, NOW, RATES, SECRET
local KEEP, KEEP_PAIRS -- in ms: no request lives longer, so no key of one need; and no pair
local MOST = 500 -- things that one call takes away because their time has passed

local COUNTS = 8 -- the first key that is one

local deliveries, notices, nonces

local events, views = {}, {}

-- Functions keep their variables from call to call, so each call sets all of them.
local function open(keys)
  PAIRS, LIFE, OFFERS, HANDOVERS, DUE, INDEX, MAIL = unpack(keys)
end

local function enter(words)
  if words[1] ~= COMMON then
    COMMON = words[1]
    local times = {}
    for each in COMMON:gmatch('%S+') do
      times[#times + 1] = tonumber(each)
    end
    REQUEST, ANSWER, WRITE, PAIR_MEMORY, LEASE, SHARD = unpack(times)
    KEEP, KEEP_PAIRS = whole(REQUEST + 2 * ANSWER + WRITE + LEASE + 10000), whole(PAIR_MEMORY + 1000)
  end
  local begins, now
  OWNER, begins, now, RATES = words[2]:match('^(%S+) (%S+) (%S+)(.*)$')
  BEGINS, NOW, SECRET = begins == '1', tonumber(now), words[3]
  NOW = NOW or server_ms()
  deliveries, notices, nonces = {}, {}, 0
end

local function keep(key)
  redis.call('PEXPIRE', key, KEEP)
end

local function next_number()
  local number = redis.call('HINCRBY', OFFERS, 'count', '1')
  if number == 1 then -- it is new, or was evicted: no owner may take a number for one that it has had
    number = NOW * 100
    redis.call('HSET', OFFERS, 'count', whole(number))
    redis.call('UNLINK', INDEX)
    keep(OFFERS)
  end
  return string.format('%015d', number)
end

local function next_nonce()
  nonces = nonces + 1
  return SHARD .. '-' .. redis.sha1hex(SECRET .. nonces)
end

local function first(key, prefix, limit)
  return redis.call('ZRANGEBYLEX', key, '[' .. prefix .. ' ', '(' .. prefix .. '!', 'LIMIT', '0', limit)
end

local function is_alive(owner)
  return owner == OWNER or tonumber(redis.call('ZSCORE', DUE, owner .. ' o') or 0) > NOW
end

local function deliver(to, type, nonce, signal)
  if to.owner == OWNER then
    local n = #deliveries
    deliveries[n + 1], deliveries[n + 2], deliveries[n + 3], deliveries[n + 4] = to.ticket, type, nonce, signal
  elseif is_alive(to.owner) then
    local delivery = table.concat({ to.ticket, type, nonce, signal }, ' ')
    redis.call('ZADD', MAIL, '0', to.owner .. ' ' .. next_number() .. ' ' .. delivery)
    keep(MAIL)
    notices[to.owner] = true
  end
end

local function reply(status, good, responder, ...)
  for owner in pairs(notices) do
    redis.call('PUBLISH', PAIRS:match('^[^:]+') .. ':' .. owner:match('^[^.]+'), SHARD)
  end
  return { status, good and 1 or 0, responder or '', deliveries, ... }
end

-- Records ----------------------------------------------------------------------------------------------------

local function packed(record, fields)
  local values = {}
  for i, field in ipairs(fields) do
    values[i] = record[field]
  end
  return values
end

local function unpacked(values, fields)
  local record = {}
  for i, field in ipairs(fields) do
    record[field] = values[i]
  end
  return record
end

-- A request of the caller, from one word: its fields, parted by blanks.
local function arrival_of(word, signal)
  local arrival = unpacked({ word:match(WORD) }, ARRIVAL)
  arrival.owner, arrival.signal, arrival.rematch = OWNER, signal, arrival.rematch == '1'
  return arrival
end

local function offer_of(ticket)
  local text = redis.call('HGET', OFFERS, ticket)
  return text and unpacked(cmsgpack.unpack(text), OFFER)
end

local function save_offer(offer, ...)
  redis.call('HSET', OFFERS, offer.ticket, cmsgpack.pack(packed(offer, OFFER)), ...)
end

local function delete_offer(offer)
  redis.call('HDEL', OFFERS, offer.ticket, offer.ticket .. ' s')
  redis.call('ZREM', INDEX, 'o ' .. offer.owner .. ' ' .. offer.ticket)
end

local function handover_of(nonce)
  local text = redis.call('HGET', HANDOVERS, nonce)
  return text and unpacked(cmsgpack.unpack(text), HANDOVER)
end

local function save_handover(nonce, handover)
  redis.call('HSET', HANDOVERS, nonce, cmsgpack.pack(packed(handover, HANDOVER)))
end

local function delete_handover(nonce)
  redis.call('HDEL', HANDOVERS, nonce)
  redis.call('ZREM', DUE, nonce .. ' n')
end

local function set_deadline(nonce, deadline)
  redis.call('ZADD', DUE, whole(deadline), nonce .. ' n')
end

local function pair_of(pool, one, other)
  return one < other and pool .. ' ' .. one .. ' ' .. other or pool .. ' ' .. other .. ' ' .. one
end

-- How these two met, within the memory: "linked", "bounced" or nil.
local function met(pool, one, other)
  local score = tonumber(redis.call('ZSCORE', PAIRS, pair_of(pool, one, other)) or 0)
  if math.floor(score / 2) > NOW then
    return score % 2 == 1 and 'bounced' or 'linked'
  end
end

-- Remember a pair. A link does not make a bounce that still counts a link.
local function remember(handover, how)
  local pool, one, other = handover.pool, handover.initiator, handover.responder
  if how == 'linked' and met(pool, one, other) == 'bounced' then
    how = 'bounced'
  end
  local score = 2 * (NOW + PAIR_MEMORY) + (how == 'bounced' and 1 or 0)
  redis.call('ZADD', PAIRS, whole(score), pair_of(pool, one, other))
  redis.call('PEXPIRE', PAIRS, KEEP_PAIRS)
end
