%%% @private
%%% @doc The rate limits of this node: a limiter ({@link esdb_gater_limit}) for every channel and
%%% rate that is requested.
%%%
%%% Limiters are stored as persistent terms, so finding one costs a look-up. A limiter is never
%%% replaced by one with another rate, so none forgets its state. Their number is bounded: when
%%% ?LIMITERS are in use, further channels and rates share one table of buckets, in which each
%%% bucket has its own rate.
%%%
%%% A limiter belongs to the library that made it. When the library's module was deleted and loaded
%%% again, a new limiter with full buckets replaces it.
%%% @end
-module(esdb_gater_rates).

-export([check/2, check/3, configure/1]).

-export_type([answer/0]).

-type answer() :: ok | {error, rate_limited | {bad_topic, empty | too_long | not_binary}}.
-type rate() :: pos_integer() | infinity.

-define(LIMITERS, 128).
-define(SHARED_TOPICS, 65536).
-define(MAX_TOPIC_BYTES, 255).

-define(TURN, esdb_gater_rates_turn).
-define(LIMITER(Channel, Rate), {?MODULE, limiter, Channel, Rate}).
%% The key of `{Rate, Limiter}' of a channel that was checked at its configured rate.
-define(CONFIGURED(Channel), {?MODULE, configured, Channel}).
-define(NUMBER, {?MODULE, number}).
-define(SHARED, {?MODULE, shared}).

%% @doc Takes a token at the configured rate of the channel.
-spec check(Channel :: term(), Topic :: term()) -> answer() | {error, {unknown_channel, term()}}.
check(Channel, Topic) ->
    case persistent_term:get(?CONFIGURED(Channel), none) of
        {Rate, Limiter} ->
            take(Channel, Rate, Limiter, Topic);
        none ->
            case configured_rate(Channel) of
                {ok, Rate} ->
                    Limiter = limiter(Channel, Rate),
                    ok = remember(Channel, Rate, Limiter),
                    take(Channel, Rate, Limiter, Topic);
                error ->
                    {error, {unknown_channel, Channel}}
            end
    end.

%% @doc Takes a token at the given rate.
-spec check(Channel :: term(), Topic :: term(), rate()) -> answer().
check(Channel, Topic, Rate) ->
    take(Channel, Rate, limiter(Channel, Rate), Topic).

%% @doc Replaces the configured channels and their rates.
-spec configure(#{atom() => #{max_rate := rate(), _ => _}}) -> ok.
configure(Channels) ->
    maps:foreach(
      fun(Channel, #{max_rate := Rate}) ->
              case persistent_term:get(?CONFIGURED(Channel), none) of
                  {Other, _} when Other =/= Rate -> persistent_term:erase(?CONFIGURED(Channel));
                  _ -> false
              end
      end, Channels).

take(Channel, Rate, Limiter, Topic)
  when is_binary(Topic), Topic =/= <<>>, byte_size(Topic) =< ?MAX_TOPIC_BYTES ->
    try has_token(Channel, Rate, Limiter, Topic) of
        true -> ok;
        false -> {error, rate_limited}
    catch
        error:_ -> take(Channel, Rate, renewed(Channel, Rate, Limiter), Topic)
    end;
take(_Channel, _Rate, _Limiter, <<>>) ->
    {error, {bad_topic, empty}};
take(_Channel, _Rate, _Limiter, Topic) when is_binary(Topic) ->
    {error, {bad_topic, too_long}};
take(_Channel, _Rate, _Limiter, _Topic) ->
    {error, {bad_topic, not_binary}}.

has_token(_Channel, infinity, infinity, _Topic) ->
    true;
has_token(Channel, Rate, {shared, Table}, Topic) ->
    Bucket = term_to_binary({Channel, Rate, Topic}),
    esdb_gater_limit:check(esdb_gater_limit:at_rate(Table, Rate), Bucket);
has_token(_Channel, _Rate, Limiter, Topic) ->
    esdb_gater_limit:check(Limiter, Topic).

limiter(_Channel, infinity) ->
    infinity;
limiter(Channel, Rate) ->
    case persistent_term:get(?LIMITER(Channel, Rate), none) of
        none ->
            case persistent_term:get(?SHARED, none) of
                none -> esdb_gater_turns:run(?TURN, fun() -> limiter_in_turn(Channel, Rate) end);
                Shared -> {shared, Shared}
            end;
        Limiter ->
            Limiter
    end.

limiter_in_turn(Channel, Rate) ->
    Number = persistent_term:get(?NUMBER, 0),
    case persistent_term:get(?LIMITER(Channel, Rate), none) of
        none when Number < ?LIMITERS ->
            Limiter = esdb_gater_limit:new(Rate),
            ok = persistent_term:put(?LIMITER(Channel, Rate), Limiter),
            ok = persistent_term:put(?NUMBER, Number + 1),
            Limiter;
        none ->
            {shared, shared()};
        Limiter ->
            Limiter
    end.

shared() ->
    case persistent_term:get(?SHARED, none) of
        none ->
            Shared = esdb_gater_limit:new(erlang, 1, ?SHARED_TOPICS),
            ok = persistent_term:put(?SHARED, Shared),
            Shared;
        Shared ->
            Shared
    end.

%% The library that made the limiter is gone, so the first caller makes another one.
renewed(Channel, Rate, Unusable) ->
    Limiter = esdb_gater_turns:run(?TURN, fun() ->
        case persistent_term:get(?LIMITER(Channel, Rate), none) of
            Unusable ->
                New = esdb_gater_limit:new(Rate),
                ok = persistent_term:put(?LIMITER(Channel, Rate), New),
                New;
            Other ->
                Other
        end
    end),
    _ = persistent_term:erase(?CONFIGURED(Channel)),
    Limiter.

remember(Channel, Rate, Limiter) ->
    esdb_gater_turns:run(?TURN, fun() ->
        persistent_term:put(?CONFIGURED(Channel), {Rate, Limiter})
    end).

configured_rate(Channel) ->
    Channels = case esdb_gater_config:check(esdb_gater_config:environment()) of
                   {ok, Config, _Warnings} -> esdb_gater_config:channels(Config);
                   {error, _} -> esdb_gater_config:default_channels()
               end,
    case Channels of
        #{Channel := #{max_rate := Rate}} -> {ok, Rate};
        #{} -> error
    end.
