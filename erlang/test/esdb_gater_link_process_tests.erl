-module(esdb_gater_link_process_tests).

-include_lib("eunit/include/eunit.hrl").

%% A link that has no gateway, with the tables of the application.
with_link(Fun) ->
    Tables = [ets:new(Name, Options)
              || {Name, Options} <- esdb_gater_workers:tables() ++ esdb_gater_desired:tables()
                     ++ esdb_gater_shared_state:tables()],
    {ok, Link} = esdb_gater_link_process:start_link(#{mode => embedded}),
    try Fun(Link)
    after
        ok = gen_statem:stop(Link),
        lists:foreach(fun ets:delete/1, Tables)
    end.

bad_requests_to_wait_are_answered_and_hurt_nobody_test() ->
    with_link(fun(Link) ->
        ok = esdb_gater_shared_state:set(channels, #{}),
        [?assertEqual({error, {unknown_request, Bad}}, gen_server:call(Link, Bad))
         || Bad <- [{await, gateway, -1}, {await, gateway, 1 bsl 32}, {await, gateway, 1.0},
                    {await, gateway, infinity}, {await, copy, soon},
                    {await, nothing, 0}, {await, channels, 0}, {await, [copy], 0}]],
        ?assertMatch(#{phase := idle}, gen_server:call(Link, status))
    end).

who_waits_in_vain_is_told_so_test() ->
    with_link(fun(Link) ->
        ?assertEqual({error, no_gateway}, gen_server:call(Link, {await, gateway, 0})),
        ?assertEqual({error, no_gateway}, gen_server:call(Link, {await, copy, 1}))
    end).
