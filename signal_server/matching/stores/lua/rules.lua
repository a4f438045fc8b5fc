-- The rules (see signal_server/rules.py), on the keys of one shard. Each event's script begins with this text.
--
-- All members of INDEX and MAIL have the score 0, so they stand in the order of their bytes; their parts are
-- parted by a blank, which sorts before anything that a part may hold.
-- Where something is missing that should be there, a server that was short of memory has evicted its key: the
-- rest then counts as gone.
--
-- KEYS  1 EPOCH      string: the life of the Redis server that wrote all this
--       2 COUNT      string: the last number that was given out
--       3 LEASES     sorted set: owner, by the time until which it is alive
--       4 OFFERS     hash: "ticket" -> an offer, "ticket s" -> its signal
--       5 HANDOVERS  hash: nonce -> a handover
--       6 DUE        sorted set: "nonce n" and "ticket t", by the time at which it runs out
--       7 INDEX      sorted set: "o owner ticket", all offers
--                                "p pool peer place ticket", those that wait
--                                "h pool place ticket", the oldest of them of each peer
--       8 PAIRS      sorted set: "pool peer peer", by the time at which it is forgotten
--       9 MAIL       sorted set: "owner number delivery", what an owner has not fetched yet
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

local EPOCH, COUNT, LEASES, OFFERS, HANDOVERS, DUE, INDEX, PAIRS, MAIL = unpack(KEYS)
local REQUEST, ANSWER, WRITE, PAIR_MEMORY, LEASE =
  tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local OWNER, BEGINS, NOW, SECRET = ARGV[8], ARGV[9] == '1', tonumber(ARGV[10]), ARGV[11]

local KEEP = REQUEST + ANSWER + WRITE + LEASE + 10000 -- no request lives longer, so no key of one need
local MOST = 500 -- things that one call takes away because their time has passed

if not NOW then
  local time = redis.call('TIME')
  NOW = time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Plumbing --------------------------------------------------------------------------------------------------

local deliveries, notices, nonces = {}, {}, 0

local function keep(key)
  redis.call('PEXPIRE', key, KEEP)
end

local function next_number()
  local number = redis.call('INCR', COUNT)
  keep(COUNT)
  return string.format('%015d', number)
end

local function next_nonce()
  nonces = nonces + 1
  return ARGV[6] .. '-' .. redis.sha1hex(SECRET .. nonces)
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

local function save_offer(offer, ...)
  redis.call('HSET', OFFERS, offer.ticket, cmsgpack.pack({
    offer.pool, offer.peer, offer.bearer, offer.owner, offer.place, offer.deadline, offer.nonce,
  }), ...)
  keep(OFFERS)
end

local function delete_offer(offer)
  redis.call('HDEL', OFFERS, offer.ticket, offer.ticket .. ' s')
  redis.call('ZREM', INDEX, 'o ' .. offer.owner .. ' ' .. offer.ticket)
end

local function handover_of(nonce)
  local packed = redis.call('HGET', HANDOVERS, nonce)
  if packed then
    local pool, initiator, responder, bearer, ticket, to, stage, digest, repliers =
      unpack(cmsgpack.unpack(packed))
    return {
      pool = pool, initiator = initiator, responder = responder, bearer = bearer,
      ticket = ticket, -- of the offer, which is not there if the initiator has left or was answered
      to = to, -- the ticket that it was handed to
      stage = stage, digest = digest, repliers = repliers,
    }
  end
end

local function save_handover(nonce, handover)
  redis.call('HSET', HANDOVERS, nonce, cmsgpack.pack({
    handover.pool, handover.initiator, handover.responder, handover.bearer,
    handover.ticket, handover.to, handover.stage, handover.digest, handover.repliers,
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

-- The place of the oldest waiting offer of a peer: "place ticket", or nil.
local function head_of(pool, peer)
  local own = 'p ' .. pool .. ' ' .. peer
  local head = first(INDEX, own, 1)[1]
  return head and head:sub(#own + 2)
end

local function wait(offer)
  local place = offer.place .. ' ' .. offer.ticket
  local head = head_of(offer.pool, offer.peer)
  local waiting = 'p ' .. offer.pool .. ' ' .. offer.peer .. ' ' .. place
  local owned = 'o ' .. offer.owner .. ' ' .. offer.ticket
  if head and head < place then
    redis.call('ZADD', INDEX, 0, owned, 0, waiting)
  else
    redis.call('ZADD', INDEX, 0, owned, 0, waiting, 0, 'h ' .. offer.pool .. ' ' .. place)
    if head then
      redis.call('ZREM', INDEX, 'h ' .. offer.pool .. ' ' .. head)
    end
  end
  redis.call('ZADD', DUE, offer.deadline, offer.ticket .. ' t')
  keep(INDEX)
  keep(DUE)
end

local function stop_waiting(offer)
  local place = offer.place .. ' ' .. offer.ticket
  local waiting = 'p ' .. offer.pool .. ' ' .. offer.peer .. ' ' .. place
  if redis.call('ZREM', INDEX, waiting, 'h ' .. offer.pool .. ' ' .. place) == 2 then
    local head = head_of(offer.pool, offer.peer)
    if head then
      redis.call('ZADD', INDEX, 0, 'h ' .. offer.pool .. ' ' .. head)
    end
  end
  redis.call('ZREM', DUE, offer.ticket .. ' t')
end

-- The oldest waiting offer of another peer that this one has not met.
local function oldest_for(pool, peer)
  local from, past, page = '[h ' .. pool .. ' ', '(h ' .. pool .. '!', 1
  while true do
    local heads = redis.call('ZRANGEBYLEX', INDEX, from, past, 'LIMIT', 0, page)
    for _, head in ipairs(heads) do
      local offer = offer_of(head:match('[^ ]+$'))
      if not offer then
        redis.call('ZREM', INDEX, head)
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
    ticket = offer.ticket, to = responder.ticket, stage = 'offered', digest = '', repliers = {},
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
    arrival.deadline = NOW + arrival.wait
    arrival.nonce = ''
    save_offer(arrival, arrival.ticket .. ' s', arrival.signal)
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

-- A `DEMOTE` that was not written: its offer goes back.
local function release(nonce, handover)
  delete_handover(nonce)
  give_back(handover.ticket)
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
    for _, owned in ipairs(first(INDEX, 'o ' .. owner, most - taken)) do
      withdraw(owned:sub(#owner + 4))
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
      release(name, handover)
    end
  end
  return most
end

-- Returns what keeps the event from being begun, or nil.
local function begin()
  -- Always, and first: a server that is full, or short of replicas, or a replica itself, refuses this, and so
  -- the whole event, before anything was changed.
  if redis.call('SET', EPOCH, ARGV[7], 'PX', KEEP, 'GET') ~= ARGV[7] then
    -- Another life of the server wrote this, and may have forgotten its last words: none of it is good,
    -- but the pairs.
    redis.call('UNLINK', COUNT, LEASES, OFFERS, HANDOVERS, DUE, INDEX, MAIL)
  end
  local until_ms = BEGINS and NOW or tonumber(redis.call('ZSCORE', LEASES, OWNER) or 0)
  if until_ms <= NOW and not BEGINS then
    return 'LAPSED'
  end
  if until_ms - NOW < LEASE * 0.9 then
    redis.call('ZADD', LEASES, NOW + LEASE, OWNER)
    keep(LEASES)
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
