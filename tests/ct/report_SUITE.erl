%% @doc What a gateway tells about itself over distribution, and what it may be told.
-module(report_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1]).
-export([a_report_names_what_the_gateway_holds/1, lists_have_limits_orders_and_totals/1,
         what_is_asked_wrongly_is_named/1, lost_connections_say_where_they_failed_and_why/1,
         an_order_takes_a_key_that_nodes_do_not_have/1,
         a_node_that_does_not_read_is_slow_and_raises_an_alarm_once/1,
         a_gateway_ends_in_order_when_an_operator_says_so/1]).

-define(TOPIC, <<"a topic">>).

suite() -> [{timetrap, {minutes, 3}}].

%% The last one ends the gateway.
all() ->
    [a_report_names_what_the_gateway_holds, lists_have_limits_orders_and_totals,
     what_is_asked_wrongly_is_named, lost_connections_say_where_they_failed_and_why,
     an_order_takes_a_key_that_nodes_do_not_have,
     a_node_that_does_not_read_is_slow_and_raises_an_alarm_once,
     a_gateway_ends_in_order_when_an_operator_says_so].

init_per_suite(Config) ->
    World = gater_harness:new(),
    Gateway = gater_harness:gateway(World, #{
        config => "[channels.bulk]\npriority = \"low\"\n[channels.rare]\nmax_rate = 1\n"}),
    [Asker, Victim] = [gater_harness:node(World, #{modules => [?MODULE]}) || _ <- [asker, victim]],
    [{world, World}, {gateway, Gateway}, {asker, Asker}, {victim, Victim} | Config].

end_per_suite(Config) ->
    gater_harness:stop(value(world, Config)).

a_report_names_what_the_gateway_holds(Config) ->
    #{node := Gater, port := Port} = value(gateway, Config),
    #{node := Asker} = value(asker, Config),
    Agent = {_, Pid} = gater_harness:agent(value(asker, Config)),
    ok = call(Config, esdb_gater_worker_registry, {register, my_store, Pid}),
    ok = call(Config, esdb_channel_events, {subscribe, ?TOPIC, Pid}),
    [ok = call(Config, esdb_channel_events, {publish, ?TOPIC, N}) || N <- [1, 2, 3]],
    ok = call(Config, rare, {publish, ?TOPIC, once}),
    {error, rate_limited} = call(Config, rare, {publish, ?TOPIC, twice}),
    gater_harness:until(fun() -> length(gater_harness:messages(Agent)) =:= 3 end),

    #{<<"status">> := Status, <<"cluster">> := Cluster, <<"peers">> := Peers,
      <<"stores">> := Stores, <<"channels">> := Channels} = report(Config, all, #{}),
    ?assertMatch(#{<<"ready">> := true, <<"role">> := <<"leader">>, <<"health">> := <<"healthy">>,
                   <<"config">> := #{<<"port">> := Port, <<"random_secret">> := true},
                   <<"totals">> := #{<<"registrations">> := 1, <<"refused">> := 1,
                                     <<"published">> := 4, <<"delivered">> := 3}}, Status),
    ?assertEqual(atom_to_binary(Gater), maps:get(<<"node">>, Status)),
    ?assertMatch(#{<<"quorum">> := #{<<"voters">> := 1, <<"reached">> := 1, <<"held">> := true},
                   <<"members">> := [#{<<"connected">> := true, <<"role">> := <<"voter">>}]},
                 Cluster),
    [Peer] = named(<<"node">>, Asker, Peers),
    ?assertMatch(#{<<"kind">> := <<"beam">>, <<"connected">> := true, <<"processes">> := 1,
                   <<"lanes">> := [#{<<"lane">> := <<"control">>} | _]}, Peer),
    ?assert(maps:get(<<"bytes_in">>, Peer) > 0 andalso maps:get(<<"bytes_out">>, Peer) > 0),
    ?assertEqual([#{<<"store">> => <<"my_store">>, <<"workers">> => 1, <<"offered">> => 1}],
                 maps:get(<<"items">>, Stores)),
    [Events] = named(<<"channel">>, esdb_channel_events, Channels),
    ?assertMatch(#{<<"published">> := 3, <<"delivered">> := 3, <<"subscriptions">> := 1,
                   <<"nodes">> := #{<<"items">> := [#{<<"subscriptions">> := 1}]}}, Events),
    [Rare] = named(<<"channel">>, rare, Channels),
    ?assertMatch(#{<<"max_rate">> := 1, <<"refused">> := #{<<"rate_limited">> := 1}}, Rare),

    Local = list_to_binary(gater_harness:on(value(asker, Config), fun() -> pid_to_list(Pid) end)),
    Node = atom_to_binary(Asker),
    ?assertMatch(#{<<"total">> := 1, <<"items">> := [#{<<"pid">> := Local, <<"node">> := Node,
                                                       <<"offered">> := true}]},
                 report(Config, workers, #{store => my_store})),
    ?assertMatch(#{<<"total">> := 1, <<"items">> := [#{<<"pid">> := Local, <<"processes">> := 1}]},
                 report(Config, subscribers, #{channel => esdb_channel_events, topic => ?TOPIC})),
    %% A rate takes a second.
    gater_harness:until(fun() ->
        #{<<"published">> := Seconds} = report(Config, history, #{}),
        lists:sum(Seconds) > 0
    end).

lists_have_limits_orders_and_totals(Config) ->
    Agents = [Pid || _ <- lists:seq(1, 5),
                     {_, Pid} <- [gater_harness:agent(value(asker, Config))]],
    [ok = call(Config, esdb_gater_worker_registry, {register, Store, Pid})
     || {Store, Count} <- [{a_store, 2}, {b_store, 5}],
        Pid <- lists:sublist(Agents, Count)],
    Names = fun(Options) ->
                #{<<"total">> := Total, <<"items">> := Items} = report(Config, stores, Options),
                {Total, [Name || #{<<"store">> := Name} <- Items]}
            end,
    ?assertEqual({3, [<<"b_store">>, <<"a_store">>, <<"my_store">>]}, Names(#{})),
    ?assertEqual({3, [<<"b_store">>]}, Names(#{limit => 1})),
    ?assertEqual({3, [<<"a_store">>, <<"b_store">>]}, Names(#{limit => 2, sort => name})),
    ?assertEqual({3, []}, Names(#{limit => 0})),
    ?assertMatch(#{<<"total">> := 5, <<"items">> := [_, _]},
                 report(Config, workers, #{store => <<"b_store">>, limit => 2})).

what_is_asked_wrongly_is_named(Config) ->
    Ask = fun(Request) -> call(Config, esdb_gater_observer, Request) end,
    ?assertEqual({error, {unknown_section, <<"nothing">>}}, Ask({report, nothing, #{}})),
    ?assertEqual({error, {bad_option, <<"sort">>}}, Ask({report, peers, #{sort => colour}})),
    ?assertEqual({error, {bad_option, <<"store">>}}, Ask({report, workers, #{}})),
    ?assertEqual({error, {unknown_request, hello}}, Ask(hello)),
    ?assertMatch({error, {unknown_request, _}}, Ask({report, peers, [improper | list]})),
    ?assertMatch({ok, Now} when Now > 1600000000000, Ask(time)).

lost_connections_say_where_they_failed_and_why(Config) ->
    #{port := Port, node := Gater} = value(gateway, Config),
    World = value(world, Config),
    Stranger = gater_harness:unique("stranger") ++ "@127.0.0.1",
    {error, _} = gater_wire:connect(Port, Stranger, "not the cookie"),
    Beam = #{node := Mortal} = gater_harness:node(World, #{modules => [?MODULE]}),
    pong = gater_harness:on(Beam, fun() -> net_adm:ping(Gater) end),
    gater_harness:kill_node(World, Beam),
    gater_harness:until(fun() ->
        #{<<"items">> := Items} = report(Config, lost_connections, #{}),
        Kinds = [{Node, Origin, Stage}
                 || #{<<"node">> := Node, <<"origin">> := Origin, <<"stage">> := Stage} <- Items],
        Lost = [Reason || #{<<"node">> := Node, <<"reason">> := Reason} <- Items,
                          Node =:= atom_to_binary(Mortal)],
        lists:member({list_to_binary(Stranger), <<"accepted">>, <<"authentication">>}, Kinds)
            andalso Lost =/= [] andalso lists:all(fun(R) -> R =/= <<>> end, Lost)
    end).

an_order_takes_a_key_that_nodes_do_not_have(Config) ->
    Asker = value(asker, Config),
    Before = binary:copy(<<0>>, 32),
    ?assertEqual({error, not_allowed}, order(Config, <<"drain">>, Before)),
    ?assertEqual({error, not_allowed}, order(Config, <<"log trace">>, <<>>)),
    %% One for another order, or of another node, is none.
    ?assertEqual({error, not_allowed},
                 order(Config, <<"drain">>, seal(Config, Asker, <<"log info">>))),
    ?assertEqual({error, not_allowed},
                 order(Config, <<"drain">>, seal(Config, value(victim, Config), <<"drain">>))),
    ok = sealed(Config, <<"log gater_node=debug,info">>),
    ?assertMatch(#{<<"config">> := #{<<"log">> := <<"gater_node=debug,info">>}},
                 report(Config, status, #{})),
    ?assertMatch({error, {bad_filter, _}}, sealed(Config, <<"log =[=">>)),
    ?assertEqual({error, unknown_order}, sealed(Config, <<"dance">>)),
    ok = sealed(Config, <<"log info">>).

a_node_that_does_not_read_is_slow_and_raises_an_alarm_once(Config) ->
    Victim = #{node := Node} = value(victim, Config),
    Name = atom_to_binary(Node),
    Listener = {_, Link} = gater_harness:agent(value(asker, Config)),
    {ok, #{}} = call(Config, esdb_gater_session, {attach, 1, Link, #{}}),
    ok = call(Config, esdb_gater_session,
              {events, Link, [[esdb_gater, alarm, raised], [esdb_gater, alarm, cleared]]}),
    {_, Pid} = gater_harness:agent(Victim),
    ok = call(Config, bulk, {subscribe, ?TOPIC, Pid}),
    gater_harness:signal(Victim, "STOP"),
    #{node := Gater} = value(gateway, Config),
    Flood = fun() ->
        gater_harness:on(value(asker, Config), fun() ->
            Body = binary:copy(<<"x">>, 100000),
            [ok = gen_server:call({bulk, Gater}, {publish, ?TOPIC, Body}) || _ <- lists:seq(1, 50)]
        end)
    end,
    gater_harness:until(fun() ->
        Flood(),
        #{<<"items">> := Slow} = report(Config, slow, #{}),
        [] =/= [ok || #{<<"node">> := N, <<"dropped">> := Drops, <<"waiting_bytes">> := Waiting,
                        <<"losing">> := true, <<"advice">> := Advice} <- Slow,
                      N =:= Name, Drops > 0, Waiting > 0, Advice =/= <<>>]
    end),
    gater_harness:until(fun() -> raised(Config, Name) =/= [] end),
    ?assertMatch([#{<<"severity">> := <<"warning">>, <<"next_step">> := _}], raised(Config, Name)),
    gater_harness:signal(Victim, "CONT"),
    gater_harness:until(fun() -> raised(Config, Name) =:= [] end, 60000),
    Count = fun(Text) ->
        Lines = binary:split(gater_harness:log(value(gateway, Config)), <<"\n">>, [global]),
        length([ok || Line <- Lines, binary:match(Line, Text) =/= nomatch,
                      binary:match(Line, <<"subscriber_drops">>) =/= nomatch,
                      binary:match(Line, Name) =/= nomatch])
    end,
    Heard = fun() ->
        [{Event, Alarm, is_binary(Text)}
         || {esdb_gater_event, [esdb_gater, alarm, Event], #{system_time := _},
             #{alarm := Alarm, severity := warning, subject := Subject, text := Text,
               next_step := _}} <- gater_harness:messages(Listener), Subject =:= Name]
    end,
    %% What is told last.
    gater_harness:until(fun() -> Count(<<"\"alarm over: ">>) > 0 andalso length(Heard()) > 1 end),
    ?assertEqual([{raised, subscriber_drops, true}, {cleared, subscriber_drops, true}], Heard()),
    ?assertEqual({1, 1}, {Count(<<"\"alarm: ">>), Count(<<"\"alarm over: ">>)}).

a_gateway_ends_in_order_when_an_operator_says_so(Config) ->
    ok = sealed(Config, <<"drain">>),
    ?assertEqual(0, gater_harness:await_exit(value(world, Config), value(gateway, Config))).

%%% Orders

sealed(Config, Order) -> order(Config, Order, seal(Config, value(asker, Config), Order)).

order(Config, Order, Mac) -> call(Config, esdb_gater_observer, {admin, Order, Mac}).

%% As an operator makes it, who can read the gateway's data directory.
seal(Config, #{node := Caller}, Order) ->
    #{node := Gater} = value(gateway, Config),
    Directory = filename:join(gater_harness:dir(value(world, Config)), atom_to_list(Gater)),
    {ok, Key} = file:read_file(filename:join(Directory, "admin.key")),
    #{<<"creation">> := Creation} = report(Config, status, #{}),
    Parts = [atom_to_binary(Gater), atom_to_binary(Caller), Order],
    Text = [<<"esdb-gater: order of an operator, 1">>, <<Creation:32>>,
            [[<<(byte_size(Part)):64>>, Part] || Part <- Parts]],
    crypto:mac(hmac, sha256, Key, Text).

%%% Reports

report(Config, Section, Options) ->
    {ok, Json} = call(Config, esdb_gater_observer, {report, Section, Options}),
    %% The decoder of the application takes no fractions, which rates have.
    Whole = re:replace(Json, "(\":[0-9]+)\\.[0-9e-]+", "\\1", [global, {return, binary}]),
    {ok, Report} = esdb_gater_json:decode(Whole),
    Report.

raised(Config, Subject) ->
    [Alarm || Alarm = #{<<"name">> := <<"subscriber_drops">>, <<"subject">> := S}
                  <- report(Config, alarms, #{}), S =:= Subject].

named(Key, Name, #{<<"items">> := Items}) ->
    [Item || Item <- Items, maps:get(Key, Item) =:= atom_to_binary(Name)].

call(Config, Name, Request) ->
    gater_harness:call(value(asker, Config), {Name, value(gateway, Config)}, Request).

value(Key, Config) -> proplists:get_value(Key, Config).
