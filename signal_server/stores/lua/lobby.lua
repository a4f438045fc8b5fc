-- The rules (see signal_server/rules.py), on the keys of one shard. Each event's script begins with this text.
--
-- All members of the sorted sets but PAIRS, LEASES and DUE have the score 0, so they stand in the order of
-- their bytes; their parts are parted by a blank, which sorts before anything that a part may hold.
-- Where something is missing that should be there, a server that was short of memory has evicted its key: the
-- rest then counts as gone.
--
-- KEYS  1 SHARD      hash: `epoch`, the life of the Redis server that wrote all this; `count`, the last number
--       2 LEASES     sorted set: owner, by the time until which it is alive
--       3 OFFERS     hash: "ticket" -> an offer, "ticket s" -> its signal
--       4 HANDOVERS  hash: nonce -> a handover
--       5 DUE        sorted set: "nonce n" and "ticket t", by the time at which it runs out
--       6 HEADS      sorted set: "pool place ticket", the oldest waiting offer of each peer
--       7 PLACES     sorted set: "pool peer place ticket", all waiting offers
--       8 OWNED      sorted set: "owner ticket", all offers
--       9 PAIRS      sorted set: "pool peer peer", by the time at which it is forgotten
--      10 MAIL       sorted set: "owner number delivery", what an owner has not fetched yet
-- ARGV  1-5          times in ms: request, answer, write, pair memory, lease
--       6            the shard's number, with which a nonce begins
--       7            the epoch: `run_id` of the server that the caller is connected to
--       8            the owner: one life of one process in this shard
--       9            "1" if this owner's life begins now
--      10            the time in ms, or "" for the server's own
--      11            a secret that was never used before, of which the nonces are made
--      12...         the event's own
--
-- Returns { status, good, responder, deliveries, ... }
--       status      "OK"; "LAPSED": the owner's lease is over, nothing was done; or "AGAIN": so much had run out
--                   of time that the event was not begun, call again
--       deliveries  { ticket, type, nonce, signal, ... } of the caller's own requests, four values each

local SHARD, LEASES, OFFERS, HANDOVERS, DUE, HEADS, PLACES, OWNED, PAIRS, MAIL = unpack(KEYS)
local REQUEST, ANSWER, WRITE, PAIR_MEMORY, LEASE =
  tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local EPOCH, OWNER, BEGINS, NOW, SECRET = ARGV[7], ARGV[8], ARGV[9] == '1', tonumber(ARGV[10]), ARGV[11]

local KEEP = REQUEST + ANSWER + WRITE + LEASE + 10000 -- no request lives longer, so no key of one need
local MOST = 500 -- things that one call takes away because their time has passed

if not NOW then
  local time = redis.call('TIME')
  NOW = time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Plumbing --------------------------------------------------------------------------------------------------

local deliveries, notices, nonces = {}, {}, 0

local function keep(...)
  for _, key in ipairs({ ... }) do
    redis.call('PEXPIRE', key, KEEP)
  end
end

local function next_number()
  return string.format('%015d', redis.call('HINCRBY', SHARD, 'count', 1))
end

local function next_nonce()
  nonces = nonces + 1
  return ARGV[6] .. '.' .. redis.sha1hex(SECRET .. nonces)
end

local function first(key, prefix, limit)
  return redis.call('ZRANGEBYLEX', key, '[' .. prefix .. ' ', '(' .. prefix .. '!', 'LIMIT', 0, limit)
end

local function is_alive(owner)
  return tonumber(redis.call('ZSCORE', LEASES, owner) or 0) > NOW
end

local function deliver(to, type, nonce, signal)
  if to.owner == OWNER then
    local n = #deliveries
    deliveries[n + 1], deliveries[n + 2], deliveries[n + 3], deliveries[n + 4] = to.ticket, type, nonce, signal
  elseif is_alive(to.owner) then
    local delivery = table.concat({ to.ticket, type, nonce, signal }, ' ')
    redis.call('ZADD', MAIL, 0, to.owner .. ' ' .. next_number() .. ' ' .. delivery)
    keep(MAIL)
    notices[to.owner] = true
  end
end

local function reply(status, good, responder, ...)
  for owner in pairs(notices) do
    redis.call('PUBLISH', 'spacerift1:' .. owner:match('^[^.]+'), ARGV[6])
  end
  return { status, good and 1 or 0, responder or '', deliveries, ... }
end

-- Offers, handovers, pairs ----------------------------------------------------------------------------------

local function offer_of(ticket)
  local packed = redis.call('HGET', OFFERS, ticket)
  if packed then
    local pool, peer, bearer, owner, place, deadline, nonce = unpack(cmsgpack.unpack(packed))
    return {
      ticket = ticket, pool = pool, peer = peer, bearer = bearer, owner = owner,
      place = place, deadline = deadline, nonce = nonce,
    }
  end
end

local function save_offer(offer)
  redis.call('HSET', OFFERS, offer.ticket, cmsgpack.pack({
    offer.pool, offer.peer, offer.bearer, offer.owner, offer.place, offer.deadline, offer.nonce,
  }))
  keep(OFFERS)
end

local function delete_offer(offer)
  redis.call('HDEL', OFFERS, offer.ticket, offer.ticket .. ' s')
  redis.call('ZREM', OWNED, offer.owner .. ' ' .. offer.ticket)
end

local function handover_of(nonce)
  local packed = redis.call('HGET', HANDOVERS, nonce)
  if packed then
    local pool, initiator, responder, bearer, ticket, stage, digest, repliers = unpack(cmsgpack.unpack(packed))
    return {
      pool = pool, initiator = initiator, responder = responder, bearer = bearer,
      ticket = ticket, -- of the offer, which is not there if the initiator has left or was answered
      stage = stage, digest = digest, repliers = repliers,
    }
  end
end

local function save_handover(nonce, handover)
  redis.call('HSET', HANDOVERS, nonce, cmsgpack.pack({
    handover.pool, handover.initiator, handover.responder, handover.bearer,
    handover.ticket, handover.stage, handover.digest, handover.repliers,
  }))
  keep(HANDOVERS)
end

local function delete_handover(nonce)
  redis.call('HDEL', HANDOVERS, nonce)
  redis.call('ZREM', DUE, nonce .. ' n')
end

local function set_deadline(nonce, deadline)
  redis.call('ZADD', DUE, deadline, nonce .. ' n')
  keep(DUE)
end

local function pair_of(pool, one, other)
  return one < other and pool .. ' ' .. one .. ' ' .. other or pool .. ' ' .. other .. ' ' .. one
end

local function have_met(pool, one, other)
  return tonumber(redis.call('ZSCORE', PAIRS, pair_of(pool, one, other)) or 0) > NOW
end

local function remember(handover)
  redis.call('ZADD', PAIRS, NOW + PAIR_MEMORY, pair_of(handover.pool, handover.initiator, handover.responder))
  redis.call('PEXPIRE', PAIRS, PAIR_MEMORY + 1000)
end

-- The pool ---------------------------------------------------------------------------------------------------

local function wait(offer)
  local own, place = offer.pool .. ' ' .. offer.peer, offer.place .. ' ' .. offer.ticket
  local head = first(PLACES, own, 1)[1]
  redis.call('ZADD', PLACES, 0, own .. ' ' .. place)
  if head then
    head = head:sub(#own + 2)
  end
  if not head or place < head then
    if head then
      redis.call('ZREM', HEADS, offer.pool .. ' ' .. head)
    end
    redis.call('ZADD', HEADS, 0, offer.pool .. ' ' .. place)
  end
  redis.call('ZADD', DUE, offer.deadline, offer.ticket .. ' t')
  keep(PLACES, HEADS, DUE)
end

local function stop_waiting(offer)
  local own, place = offer.pool .. ' ' .. offer.peer, offer.place .. ' ' .. offer.ticket
  redis.call('ZREM', PLACES, own .. ' ' .. place)
  if redis.call('ZREM', HEADS, offer.pool .. ' ' .. place) == 1 then
    local head = first(PLACES, own, 1)[1]
    if head then
      redis.call('ZADD', HEADS, 0, offer.pool .. ' ' .. head:sub(#own + 2))
      keep(HEADS)
    end
  end
  redis.call('ZREM', DUE, offer.ticket .. ' t')
end

-- The oldest waiting offer of another peer that this one has not met.
local function oldest_for(pool, peer)
  local from, past, page = '[' .. pool .. ' ', '(' .. pool .. '!', 1
  while true do
    local heads = redis.call('ZRANGEBYLEX', HEADS, from, past, 'LIMIT', 0, page)
    for _, head in ipairs(heads) do
      local offer = offer_of(head:match('[^ ]+$'))
      if not offer then
        redis.call('ZREM', HEADS, head)
      elseif offer.peer ~= peer and not have_met(pool, peer, offer.peer) then
        return offer
      end
    end
    if #heads < page then
      return nil
    end
    from, page = '(' .. heads[#heads], 50
  end
end

-- The parts of an event --------------------------------------------------------------------------------------

-- The handover, if the nonce is presented in its own pool by whom it was given to.
local function good_handover(arrival, nonce)
  local handover = handover_of(nonce)
  if handover and handover.pool == arrival.pool and handover.bearer == arrival.bearer then
    return handover
  end
end

-- Offer a request to a responder, whose own request ends with it.
local function hand_over(offer, responder)
  local nonce = next_nonce()
  offer.nonce = nonce
  save_offer(offer)
  save_handover(nonce, {
    pool = responder.pool, initiator = offer.peer, responder = responder.peer, bearer = responder.bearer,
    ticket = offer.ticket, stage = 'offered', digest = '', repliers = {},
  })
  set_deadline(nonce, NOW + ANSWER)
  deliver(responder, 'DEMOTE', nonce, redis.call('HGET', OFFERS, offer.ticket .. ' s'))
end

-- Match a newcomer with the oldest offer that it may meet, or let it wait.
local function connect(arrival, may_wait)
  local found = oldest_for(arrival.pool, arrival.peer)
  if found then
    stop_waiting(found)
    hand_over(found, arrival)
  elseif not may_wait then
    deliver(arrival, 'NO_PEER', '', '')
  else
    arrival.place = next_number()
    arrival.deadline = NOW - arrival.waited + REQUEST
    arrival.nonce = ''
    save_offer(arrival)
    redis.call('HSET', OFFERS, arrival.ticket .. ' s', arrival.signal)
    redis.call('ZADD', OWNED, 0, arrival.owner .. ' ' .. arrival.ticket)
    keep(OWNED)
    wait(arrival)
  end
end

-- Put an offer back in its place, and match it at once with another that waits.
local function give_back(ticket)
  local offer = ticket ~= '' and offer_of(ticket)
  if not offer then
    return
  end
  if offer.deadline <= NOW then
    delete_offer(offer)
    deliver(offer, 'NO_PEER', '', '')
    return
  end
  local other = oldest_for(offer.pool, offer.peer)
  if not other then
    offer.nonce = ''
    save_offer(offer)
    wait(offer)
    return
  end
  stop_waiting(other)
  if other.place < offer.place then
    offer, other = other, offer
  end
  delete_offer(other)
  hand_over(offer, other)
end

-- The initiator is gone: whoever answered it gets the next offer, or none.
local function lose(nonce, handover)
  delete_handover(nonce)
  for _, each in ipairs(handover.repliers) do
    local ticket, owner, peer, bearer = unpack(each)
    if owner == OWNER or is_alive(owner) then
      connect({ ticket = ticket, owner = owner, peer = peer, bearer = bearer, pool = handover.pool }, false)
    end
  end
end

local function withdraw(ticket, unless_offered)
  local offer = offer_of(ticket)
  if not offer or (unless_offered and offer.nonce ~= '') then
    return false
  end
  if offer.nonce == '' then
    stop_waiting(offer)
  end -- else the nonce stays a ticket past the limits until its time is over
  delete_offer(offer)
  return true
end

-- What every event begins with -------------------------------------------------------------------------------

-- Take the offers and the mail of owners away whose lease is over. Returns how many.
local function reap(most)
  local taken = 0
  for _, owner in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', NOW, 'LIMIT', 0, most)) do
    for _, owned in ipairs(first(OWNED, owner, most - taken)) do
      withdraw(owned:sub(#owner + 2))
      taken = taken + 1
    end
    if taken >= most then
      break
    end
    redis.call('ZREM', LEASES, owner)
    redis.call('ZREMRANGEBYLEX', MAIL, '[' .. owner .. ' ', '(' .. owner .. '!')
    taken = taken + 1
  end
  return taken
end

-- End what has run out of time. Returns how many.
local function expire(most)
  for taken = 0, most - 1 do
    local due = redis.call('ZRANGEBYSCORE', DUE, '-inf', NOW, 'LIMIT', 0, 1)[1]
    if not due then
      return taken
    end
    redis.call('ZREM', DUE, due)
    local name, is_nonce = due:sub(1, -3), due:sub(-1) == 'n'
    local handover, offer = is_nonce and handover_of(name), not is_nonce and offer_of(name)
    if offer then
      stop_waiting(offer)
      delete_offer(offer)
      deliver(offer, 'NO_PEER', '', '')
    elseif handover and (handover.stage == 'answered' or handover.stage == 'writing') then
      lose(name, handover)
    elseif handover then
      delete_handover(name)
      give_back(handover.ticket)
    end
  end
  return most
end

-- Returns what keeps the event from being begun, or nil.
local function begin()
  local epoch = redis.call('HGET', SHARD, 'epoch')
  -- Always, and first: a server that is full, or short of replicas, or a replica itself, refuses this, and so
  -- the whole event, before anything was changed.
  redis.call('HSET', SHARD, 'epoch', EPOCH)
  keep(SHARD)
  if epoch ~= EPOCH then
    -- Another life of the server wrote this, and may have forgotten its last words: none of it is good,
    -- but the pairs.
    redis.call('UNLINK', LEASES, OFFERS, HANDOVERS, DUE, HEADS, PLACES, OWNED, MAIL)
  end
  if BEGINS then
    redis.call('ZADD', LEASES, NOW + LEASE, OWNER)
    keep(LEASES)
  elseif not is_alive(OWNER) then
    return 'LAPSED'
  end
  local taken = reap(MOST)
  if taken < MOST then
    taken = taken + expire(MOST - taken)
  end
  return taken >= MOST and 'AGAIN' or nil
end

local stop = begin()
if stop then
  return reply(stop)
end
