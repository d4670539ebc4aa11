%%% @doc Rate limits with a token bucket per topic, in this BEAM.
%%%
%%% The capacity of a bucket is the number of tokens that it gains in a second. Its state is one
%%% number, the time at which it will be full again (the generic cell rate algorithm, ITU-T I.371),
%%% so a full bucket needs no memory. The library `gater_nif' implements this; without it an
%%% implementation in Erlang, on an array of atomics, returns the same results.
%%%
%%% Memory is bounded: when more topics are in use than a limiter remembers, the least recently used
%%% ones are forgotten, and start with a full bucket when they are used again. A limiter needs no
%%% process, may be used by any process, and is freed when no process refers to it.
%%% @end
-module(esdb_gater_limit).

-export([new/1, new/2, check/2]).
-export([new/3, at_rate/2, check/3]).

-export_type([limiter/0]).

%% The implementation in Erlang: sets of ?WAYS buckets. A bucket has two words, a fingerprint of the
%% topic (0: none) and the nanoseconds since `base' at which the bucket is full again.
-record(twin, {words :: atomics:atomics_ref(),
               sets :: pos_integer(),
               %% The nanoseconds in which one token is gained, rounded up.
               interval :: pos_integer(),
               %% The greatest time in nanoseconds by which a bucket may be ahead of the clock while
               %% a token is left.
               tolerance :: non_neg_integer(),
               base :: integer()}).

-opaque limiter() :: esdb_gater_nif:limiter() | #twin{}.

-define(MAX_TOPICS, 16384).
-define(MAX_RATE, 16#ffffffff).
-define(WAYS, 8).
-define(NANOS_PER_SECOND, 1_000_000_000).

%% @doc Returns a limiter for `Rate' messages per second and topic, and as many at once after a
%% pause.
-spec new(Rate :: pos_integer()) -> limiter().
new(Rate) ->
    new(Rate, ?MAX_TOPICS).

%% @doc Returns a limiter that remembers about `MaxTopics' topics.
-spec new(Rate :: pos_integer(), MaxTopics :: pos_integer()) -> limiter().
new(Rate, MaxTopics) ->
    try new(native, Rate, MaxTopics)
    catch
        error:not_loaded -> new(erlang, Rate, MaxTopics);
        error:undef -> new(erlang, Rate, MaxTopics)
    end.

%% @private
%% @doc Returns a limiter of one of the implementations.
-spec new(native | erlang, Rate :: pos_integer(), MaxTopics :: pos_integer()) -> limiter().
new(Kind, Rate, MaxTopics)
  when is_integer(Rate), Rate > 0, is_integer(MaxTopics), MaxTopics > 0 ->
    create(Kind, min(Rate, ?MAX_RATE), min(MaxTopics, 16#ffffff)).

create(native, Rate, MaxTopics) ->
    esdb_gater_nif:limiter(Rate, MaxTopics);
create(erlang, Rate, MaxTopics) ->
    %% Half of the buckets are spare, so that all buckets of one set are seldom in use before the
    %% table is full.
    Sets = (2 * MaxTopics + ?WAYS - 1) div ?WAYS,
    at_rate(#twin{words = atomics:new(Sets * ?WAYS * 2, [{signed, true}]),
                  sets = Sets,
                  interval = ?NANOS_PER_SECOND,
                  tolerance = 0,
                  base = erlang:monotonic_time(nanosecond)}, Rate).

%% @private
%% @doc Returns the same buckets at another rate. A bucket must always be checked at the same rate.
%% This is only for a limiter in Erlang.
-spec at_rate(limiter(), Rate :: pos_integer()) -> limiter().
at_rate(#twin{} = Limiter, Rate) when is_integer(Rate), Rate > 0 ->
    Capped = min(Rate, ?MAX_RATE),
    Interval = (?NANOS_PER_SECOND + Capped - 1) div Capped,
    Limiter#twin{interval = Interval, tolerance = Interval * (Capped - 1)}.

%% @doc Takes a token from the bucket of a topic. Returns whether one was left.
-spec check(limiter(), Topic :: binary()) -> boolean().
check(#twin{base = Base} = Limiter, Topic) when is_binary(Topic) ->
    take(Limiter, Topic, erlang:monotonic_time(nanosecond) - Base);
check(Limiter, Topic) ->
    esdb_gater_nif:check(Limiter, Topic).

%% @private
%% @doc Does the same at the given time, which must not go backwards.
-spec check(limiter(), Topic :: binary(), NowNanos :: non_neg_integer()) -> boolean().
check(#twin{} = Limiter, Topic, NowNanos) when is_binary(Topic) ->
    take(Limiter, Topic, NowNanos);
check(Limiter, Topic, NowNanos) ->
    esdb_gater_nif:check(Limiter, Topic, NowNanos).

take(#twin{words = Words, sets = Sets} = Limiter, Topic, Now) ->
    Hash = erlang:phash2(Topic, 1 bsl 32),
    %% The fingerprint has 59 bits, so that it is a small integer, and is never 0.
    Print = (Hash bsl 27) bor (erlang:phash2([Topic]) bor 1),
    First = (Hash rem Sets) * ?WAYS * 2 + 1,
    case find(Words, First, First + ?WAYS * 2, Print) of
        none -> claim(Limiter, Topic, Print, First, Now);
        At -> step(Limiter, At, Now)
    end.

find(_Words, End, End, _Print) ->
    none;
find(Words, At, End, Print) ->
    case atomics:get(Words, At) of
        Print -> At;
        _ -> find(Words, At + 2, End, Print)
    end.

step(#twin{words = Words, interval = Interval, tolerance = Tolerance} = Limiter, At, Now) ->
    State = atomics:get(Words, At + 1),
    FullAt = max(State, Now),
    FullAt - Now =< Tolerance andalso
        case atomics:compare_exchange(Words, At + 1, State, FullAt + Interval) of
            ok -> true;
            _ -> step(Limiter, At, Now)
        end.

%% Claims the bucket that is, or will be, full first. A bucket that is full already needs no reset,
%% since its state is the same for any topic.
claim(#twin{words = Words} = Limiter, Topic, Print, First, Now) ->
    {State, At} = lists:min([{atomics:get(Words, At + 1), At}
                             || At <- lists:seq(First, First + (?WAYS - 1) * 2, 2)]),
    Old = atomics:get(Words, At),
    case atomics:compare_exchange(Words, At, Old, Print) of
        ok when State > Now ->
            ok = atomics:put(Words, At + 1, 0),
            step(Limiter, At, Now);
        ok ->
            step(Limiter, At, Now);
        _ ->
            take(Limiter, Topic, Now)
    end.
