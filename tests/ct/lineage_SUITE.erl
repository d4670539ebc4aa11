%% @doc Nodes of the original and nodes of this application in one cluster. Those of the original
%% are played by {@link gater_original}.
-module(lineage_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_testcase/2, end_per_testcase/2]).
-export([workers_are_listed_once_on_every_node/1, calls_go_both_ways/1,
         workers_that_leave_are_gone_on_the_other_side/1,
         a_message_arrives_once_whoever_publishes_it/1,
         topics_do_not_leak_between_channels_here/1,
         a_killed_node_of_either_kind_takes_its_workers_along/1,
         the_bridge_may_crash/1, without_the_key_there_is_no_bridge/1,
         own_channels_cross_the_bridge/1]).

-define(WORKERS, reckon_gater_pg).
-define(GROUP, esdb_gater_workers_store).
-define(EVENTS, esdb_channel_events).

suite() -> [{timetrap, {minutes, 2}}].

all() ->
    [workers_are_listed_once_on_every_node, calls_go_both_ways,
     workers_that_leave_are_gone_on_the_other_side, a_message_arrives_once_whoever_publishes_it,
     topics_do_not_leak_between_channels_here,
     a_killed_node_of_either_kind_takes_its_workers_along, the_bridge_may_crash,
     without_the_key_there_is_no_bridge, own_channels_cross_the_bridge].

init_per_testcase(Case, Config) ->
    World = gater_harness:new(),
    Gateway = gater_harness:gateway(World),
    Old = [gater_original:node(World, #{modules => [?MODULE]}) || _ <- [1, 2]],
    New = [gater_shim:node(World, [?MODULE, gater_original]) || _ <- [1, 2]],
    gater_original:connect(Old ++ New),
    Key = [{lineage_scopes, true} || Case =/= without_the_key_there_is_no_bridge],
    [ok = gater_shim:start(Beam, Key ++ gater_shim:named([Gateway])) || Beam <- New],
    [{world, World}, {old, Old}, {new, New} | Config].

end_per_testcase(_Case, Config) -> gater_harness:stop(value(world, Config)).

workers_are_listed_once_on_every_node(Config) ->
    Workers = workers(Config),
    listed(Config, Workers),
    %% Twice on either side is once.
    [on(Beam, fun() -> ok = pg:join(?WORKERS, ?GROUP, Pid) end)
     || {Beam, Pid} <- Workers, lists:member(Beam, value(old, Config))],
    [on(Beam, fun() -> ok = esdb_gater_api:register_worker(store, Pid) end)
     || {_, Pid} <- Workers, Beam <- value(new, Config)],
    [?assertEqual(pids(Workers), lists:sort(registered(Beam))) || Beam <- value(new, Config)].

calls_go_both_ways(Config) ->
    Workers = workers(Config),
    listed(Config, Workers),
    [begin
         Answers = on(Beam, fun() ->
             [esdb_gater_api:execute(store, fun(W) -> gen_server:call(W, {echo, I}) end)
              || I <- lists:seq(1, 40)]
         end),
         ?assertEqual(pids(Workers), lists:usort([W || {ok, {W, _}} <- Answers])),
         ?assertEqual(40, length([ok || {ok, _} <- Answers]))
     end || Beam <- value(new, Config)],
    [?assertEqual(pids(Workers), on(Beam, fun() ->
         lists:sort([begin {ok, {W, hi}} = gen_server:call(W, {echo, hi}), W end
                     || W <- pg:get_members(?WORKERS, ?GROUP)])
     end)) || Beam <- value(old, Config)].

workers_that_leave_are_gone_on_the_other_side(Config) ->
    [{OldBeam, OldPid}, _, {NewBeam, NewPid}, _] = Workers = workers(Config),
    listed(Config, Workers),
    on(OldBeam, fun() -> ok = pg:leave(?WORKERS, ?GROUP, OldPid) end),
    on(NewBeam, fun() -> ok = esdb_gater_api:unregister_worker(store, NewPid) end),
    Left = [W || {_, Pid} = W <- Workers, Pid =/= OldPid, Pid =/= NewPid],
    listed(Config, Left),
    %% And one that ends.
    [{Beam, Pid} | Last] = Left,
    on(Beam, fun() -> exit(Pid, kill), ok end),
    listed(Config, Last).

a_message_arrives_once_whoever_publishes_it(Config) ->
    Topic = <<"topic">>,
    Agents = [gater_original:subscriber(Beam, Topic) || Beam <- value(old, Config)]
        ++ [new_subscriber(Beam, ?EVENTS, Topic) || Beam <- value(new, Config)],
    bridged(Config, Topic, 2),
    Messages = [{Beam, I} || I <- lists:seq(1, 20), Beam <- beams(Config)],
    [publish(Config, Beam, ?EVENTS, Topic, Message) || {Beam, _} = Message <- Messages],
    %% The last of each publisher comes last of that publisher.
    [publish(Config, Beam, ?EVENTS, Topic, {Beam, last}) || Beam <- beams(Config)],
    [begin
         until(fun() -> length([1 || {_, last} <- received(Agent)]) =:= 4 end),
         Received = received(Agent),
         ?assertEqual(length(Messages) + 4, length(Received)),
         [?assertEqual(lists:seq(1, 20) ++ [last], [I || {From, I} <- Received, From =:= Beam])
          || Beam <- beams(Config)]
     end || Agent <- Agents].

topics_do_not_leak_between_channels_here(Config) ->
    Topic = <<"topic">>,
    [N1, N2] = value(new, Config),
    Events = [new_subscriber(Beam, ?EVENTS, Topic) || Beam <- [N1, N2]],
    Audit = [new_subscriber(Beam, esdb_channel_audit, Topic) || Beam <- [N1, N2]],
    bridged(Config, Topic, 4),
    [publish(Config, Beam, Channel, Topic, {Channel, Beam})
     || Channel <- [?EVENTS, esdb_channel_audit], Beam <- beams(Config)],
    [begin
         until(fun() -> length(received(Agent)) >= 4 end),
         ?assertEqual([Channel], lists:usort([C || {C, _} <- received(Agent)])),
         ?assertEqual(4, length(received(Agent)))
     end || {Channel, Agents} <- [{?EVENTS, Events}, {esdb_channel_audit, Audit}], Agent <- Agents].

a_killed_node_of_either_kind_takes_its_workers_along(Config) ->
    Topic = <<"topic">>,
    Workers = workers(Config),
    [O1, O2] = value(old, Config),
    [N1, N2] = value(new, Config),
    Kept = [gater_original:subscriber(O2, Topic), new_subscriber(N2, ?EVENTS, Topic)],
    _ = [gater_original:subscriber(O1, Topic), new_subscriber(N1, ?EVENTS, Topic)],
    listed(Config, Workers),
    bridged(Config, Topic, 2),
    gater_harness:kill_node(value(world, Config), O1),
    Three = [W || {Beam, _} = W <- Workers, Beam =/= O1],
    listed([O2], [N1, N2], Three),
    gater_harness:kill_node(value(world, Config), N1),
    listed([O2], [N2], [W || {Beam, _} = W <- Three, Beam =/= N1]),
    publish(Config, N2, ?EVENTS, Topic, from_new),
    publish(Config, O2, ?EVENTS, Topic, from_old),
    [begin
         until(fun() -> length(received(Agent)) >= 2 end),
         ?assertEqual([from_new, from_old], lists:sort(received(Agent)))
     end || Agent <- Kept].

the_bridge_may_crash(Config) ->
    Topic = <<"topic">>,
    Workers = workers(Config),
    Agents = [gater_original:subscriber(hd(value(old, Config)), Topic)
              | [new_subscriber(Beam, ?EVENTS, Topic) || Beam <- value(new, Config)]],
    listed(Config, Workers),
    bridged(Config, Topic, 2),
    [begin
         Before = on(Beam, fun() -> Pid = whereis(esdb_gater_lineage), exit(Pid, kill), Pid end),
         until(fun() -> on(Beam, fun() ->
             is_pid(whereis(esdb_gater_lineage)) andalso whereis(esdb_gater_lineage) =/= Before
         end) end)
     end || Beam <- value(new, Config)],
    listed(Config, Workers),
    bridged(Config, Topic, 2),
    [publish(Config, Beam, ?EVENTS, Topic, Beam) || Beam <- beams(Config)],
    [begin
         until(fun() -> length(received(Agent)) >= 4 end),
         ?assertEqual(lists:sort(beams(Config)), lists:sort(received(Agent)))
     end || Agent <- Agents].

without_the_key_there_is_no_bridge(Config) ->
    [New | _] = value(new, Config),
    _ = workers(Config),
    on(New, fun() ->
        undefined = whereis(esdb_gater_lineage),
        undefined = whereis(?WORKERS),
        {ok, [_, _]} = esdb_gater_api:get_workers(store)
    end).

own_channels_cross_the_bridge(Config) ->
    [New, Other] = value(new, Config),
    [Old | _] = value(old, Config),
    Channel = crossing,
    on(New, fun() ->
        {ok, Pid} = esdb_channel_server:start_link(?EVENTS, #{name => Channel}),
        unlink(Pid)
    end),
    until(fun() -> on(Other, fun() -> length(esdb_channel_host:hosts(Channel)) end) =:= 1 end),
    Agents = [gater_original:subscriber(Old, <<"t">>), new_subscriber(Other, Channel, <<"t">>)],
    bridged(Config, <<"t">>, 1),
    [publish(Config, Beam, Channel, <<"t">>, Beam) || Beam <- beams(Config)],
    [begin
         until(fun() -> length(received(Agent)) >= 4 end),
         ?assertEqual(lists:sort(beams(Config)), lists:sort(received(Agent)))
     end || Agent <- Agents].

%%% Helpers

value(Key, Config) -> proplists:get_value(Key, Config).

on(Beam, Fun) -> gater_harness:on(Beam, Fun).

until(Condition) -> gater_harness:until(Condition).

beams(Config) -> value(old, Config) ++ value(new, Config).

%% A worker of `store' on every node, those of the original first.
workers(Config) ->
    [{Beam, gater_original:worker(Beam, store)} || Beam <- value(old, Config)]
        ++ [{Beam, hd(gater_shim:workers(Beam, store, 1))} || Beam <- value(new, Config)].

pids(Workers) -> lists:sort([Pid || {_, Pid} <- Workers]).

listed(Config, Workers) -> listed(value(old, Config), value(new, Config), Workers).

listed(Old, New, Workers) ->
    [until(fun() -> lists:sort(gater_original:members(Beam, store)) =:= pids(Workers) end)
     || Beam <- Old],
    [until(fun() -> lists:sort(registered(Beam)) =:= pids(Workers) end) || Beam <- New].

registered(Beam) ->
    on(Beam, fun() -> {ok, Ws} = esdb_gater_api:get_workers(store), [Pid || {_, Pid} <- Ws] end).

new_subscriber(Beam, Channel, Topic) ->
    {_, Pid} = Agent = gater_harness:agent(Beam),
    ok = on(Beam, fun() -> esdb_channel_server:subscribe(Channel, Topic, Pid) end),
    Agent.

%% Every node sees the members of nodes of the original, and `N' on the others.
bridged(Config, Topic, N) ->
    Alive = [Beam || Beam <- beams(Config), gater_harness:alive(Beam)],
    Old = [Node || #{node := Node} <- value(old, Config)],
    Members = fun(Beam) -> gater_original:subscribers(Beam, Topic) end,
    [until(fun() ->
         length([Pid || Pid <- Members(Beam), not lists:member(node(Pid), Old)]) =:= N
     end) || Beam <- Alive],
    [Expected | _] = [lists:sort(Members(Beam)) || Beam <- Alive],
    [until(fun() -> lists:sort(Members(Beam)) =:= Expected end) || Beam <- Alive].

publish(Config, Beam, Channel, Topic, Message) ->
    case lists:member(Beam, value(old, Config)) of
        true ->
            gater_original:publish(Beam, Channel, Topic, Message);
        false ->
            ok = on(Beam, fun() -> esdb_channel_server:publish(Channel, Topic, Message) end)
    end.

received(Agent) -> gater_original:received(Agent).
