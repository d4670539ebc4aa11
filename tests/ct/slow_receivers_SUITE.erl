%% @doc A subscriber node that stands still: what is kept for it, what is not and who is told, and
%% that nobody else notices.
-module(slow_receivers_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_testcase/2, end_per_testcase/2]).
-export([low_drops_its_newest_and_normal_its_oldest_and_every_drop_is_counted/1,
         high_drops_nothing_until_its_hard_limit_cuts_the_connection/1,
         critical_messages_get_through_after_a_flood_of_low_ones/1,
         what_is_published_for_a_node_out_of_reach_is_counted/1]).

-define(TOPIC, <<"slow">>).
-define(SMALL, <<"quick">>).
%% Long enough to be kept in the buffer it was received in.
-define(BYTES, 40000).
-define(MIB, (1 bsl 20)).

suite() -> [{timetrap, {minutes, 3}}].

all() ->
    [low_drops_its_newest_and_normal_its_oldest_and_every_drop_is_counted,
     high_drops_nothing_until_its_hard_limit_cuts_the_connection,
     critical_messages_get_through_after_a_flood_of_low_ones,
     what_is_published_for_a_node_out_of_reach_is_counted].

init_per_testcase(_, Config) ->
    World = gater_harness:new(),
    Gateway = gater_harness:gateway(World, #{
        config => "[channels.urgent]\npriority = \"critical\"\n[channels.soon]\npriority = \"high\"\n"
                  "[channels.usual]\npriority = \"normal\"\n[channels.bulk]\npriority = \"low\"\n"}),
    [Publisher, Other, Victim] =
        [gater_harness:node(World, #{modules => [?MODULE]}) || _ <- [publisher, other, victim]],
    [{world, World}, {gateway, Gateway}, {publisher, Publisher}, {other, Other},
     {victim, Victim} | Config].

end_per_testcase(_, Config) ->
    gater_harness:stop(value(world, Config)).

low_drops_its_newest_and_normal_its_oldest_and_every_drop_is_counted(Config) ->
    #{node := Name} = Victim = value(victim, Config),
    Slow = [{Channel, subscriber(Config, victim, Channel, ?TOPIC)} || Channel <- [usual, bulk]],
    Quick = [subscriber(Config, other, Channel, ?SMALL) || Channel <- [usual, bulk]],
    Before = gater_harness:resident_bytes(value(gateway, Config)),
    gater_harness:signal(Victim, "STOP"),
    Count = 1500,
    [publish(Config, Channel, Count) || {Channel, _} <- Slow],
    [gater_harness:until(fun() -> numbers(Agent) =:= lists:seq(1, Count) end) || Agent <- Quick],
    %% Once nothing waits but for the victim: 16 and 32 MiB, in buffers at most twice as long.
    gater_harness:until(fun() ->
        gater_harness:resident_bytes(value(gateway, Config)) - Before < 2 * 48 * ?MIB + 32 * ?MIB
    end),
    gater_harness:signal(Victim, "CONT"),
    [Usual, Bulk] = [begin
        Lost = dropped(Config, Channel, Name, queue_full),
        ?assert(Lost > 0),
        gater_harness:until(fun() -> length(numbers(Agent)) + Lost >= Count end),
        ?assertEqual(Count, length(numbers(Agent)) + Lost),
        numbers(Agent)
    end || {Channel, Agent} <- Slow],
    ?assertEqual(lists:seq(1, length(Bulk)), Bulk),
    %% What was on its way already comes first, then the newest that had room.
    {OnTheWay, Newest} = lists:splitwith(fun({Place, N}) -> Place =:= N end,
                                         lists:zip(lists:seq(1, length(Usual)), Usual)),
    ?assert(OnTheWay =/= []),
    ?assertEqual(lists:seq(Count - length(Newest) + 1, Count), [N || {_, N} <- Newest]).

high_drops_nothing_until_its_hard_limit_cuts_the_connection(Config) ->
    #{node := Name} = Victim = value(victim, Config),
    Slow = subscriber(Config, victim, soon, ?TOPIC),
    Quick = subscriber(Config, other, soon, ?SMALL),
    gater_harness:signal(Victim, "STOP"),
    %% 64 MiB may wait.
    Count = 2000,
    publish(Config, soon, Count),
    gater_harness:until(fun() -> numbers(Quick) =:= lists:seq(1, Count) end),
    ?assertEqual(0, dropped(Config, soon, Name, queue_full)),
    ?assert(dropped(Config, soon, Name, connection_lost) > 0),
    ?assertMatch({match, _}, re:run(gater_harness:log(value(gateway, Config)), "lane.*full")),
    gater_harness:signal(Victim, "CONT"),
    %% The connection is made anew, and the subscription stands.
    gater_harness:until(fun() ->
        ok = call(Config, soon, {publish, ?TOPIC, {Count + 1, <<>>}}),
        lists:member(Count + 1, numbers(Slow))
    end),
    Before = lists:takewhile(fun(N) -> N =< Count end, numbers(Slow)),
    ?assertEqual(lists:seq(1, length(Before)), Before).

critical_messages_get_through_after_a_flood_of_low_ones(Config) ->
    Victim = value(victim, Config),
    [Bulk, Urgent] = [subscriber(Config, victim, Channel, ?TOPIC) || Channel <- [bulk, urgent]],
    gater_harness:signal(Victim, "STOP"),
    publish(Config, bulk, 1500),
    [ok = call(Config, urgent, {publish, ?TOPIC, {N, <<>>}}) || N <- [1, 2, 3]],
    gater_harness:signal(Victim, "CONT"),
    gater_harness:until(fun() -> numbers(Urgent) =:= [1, 2, 3] end),
    gater_harness:until(fun() -> numbers(Bulk) =/= [] end).

what_is_published_for_a_node_out_of_reach_is_counted(Config) ->
    #{node := Name} = Victim = value(victim, Config),
    _ = subscriber(Config, victim, usual, ?TOPIC),
    gater_harness:signal(Victim, "KILL"),
    gater_harness:until(fun() -> not gater_harness:alive(Victim) end),
    gater_harness:until(fun() ->
        ok = call(Config, usual, {publish, ?TOPIC, {1, <<>>}}),
        dropped(Config, usual, Name, not_connected) > 0
    end).

%% Publishes numbered messages, and small ones of the same numbers to another topic.
publish(Config, Channel, Count) ->
    #{node := Gater} = value(gateway, Config),
    gater_harness:on(value(publisher, Config), fun() ->
        Body = binary:copy(<<"x">>, ?BYTES),
        lists:foreach(fun(N) ->
            ok = gen_server:call({Channel, Gater}, {publish, ?TOPIC, {N, Body}}),
            ok = gen_server:call({Channel, Gater}, {publish, ?SMALL, {N, <<>>}})
        end, lists:seq(1, Count))
    end).

%% How many messages the gateway says it did not deliver.
dropped(Config, Channel, Node, Reason) ->
    #{dropped := Dropped} = call(Config, esdb_gater_session, counts),
    lists:sum([Count || #{channel := C, node := N, reason := R, count := Count} <- Dropped,
                        C =:= Channel, N =:= Node, R =:= Reason]).

subscriber(Config, Where, Channel, Topic) ->
    Agent = {_, Pid} = gater_harness:agent(value(Where, Config)),
    ok = call(Config, Channel, {subscribe, Topic, Pid}),
    Agent.

%% Of the messages a subscriber was sent.
numbers({Beam, Pid}) ->
    gater_harness:on(Beam, fun() ->
        [N || {channel_message, _, _, {N, _}} <- gater_agent:messages(Pid)]
    end).

call(Config, Name, Request) ->
    gater_harness:call(value(publisher, Config), {Name, value(gateway, Config)}, Request).

value(Key, Config) -> proplists:get_value(Key, Config).
