-module(esdb_gater_relay_tests).

-include_lib("eunit/include/eunit.hrl").

-define(CHANNEL, esdb_gater_relay_tests_channel).

%% A relay that has no gateway.
with_relay(Fun) ->
    Tables = [ets:new(Name, Options) || {Name, Options} <- esdb_gater_relay:tables() ++ esdb_gater_local:tables()],
    {ok, Relay} = esdb_gater_relay:start_link(?CHANNEL),
    try Fun(Relay)
    after
        ok = gen_server:stop(Relay),
        lists:foreach(fun ets:delete/1, Tables)
    end.

topics_that_come_and_go_without_a_gateway_leave_nothing_test() ->
    with_relay(fun(Relay) ->
        ok = come_and_go(Relay, [<<"first">>]),
        Before = words(Relay),
        ok = come_and_go(Relay, [integer_to_binary(I) || I <- lists:seq(1, 1000)]),
        ?assertEqual(Before, words(Relay))
    end).

come_and_go(Relay, Topics) ->
    lists:foreach(fun(Topic) ->
        ok = gen_server:cast(Relay, {subscribe, Topic, self()}),
        ok = gen_server:call(Relay, {unsubscribe, Topic, self()})
    end, Topics).

%% What it remembers.
words(Relay) -> erts_debug:flat_size(sys:get_state(Relay)).
