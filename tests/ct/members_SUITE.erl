%% @doc What gateways say to each other is taken from gateways only. Here nodes that know the
%% cookie, a plain BEAM and a raw socket, say what they should not, in the name of nobody, of a
%% gateway that is down, and of one that is awaited; and whatever they say, nobody loses anything.
-module(members_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, groups/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_group/2, end_per_group/2,
         init_per_testcase/2, end_per_testcase/2]).
-export([entries_of_a_stranger_change_nothing/1, entries_out_of_order_change_nothing/1,
         a_snapshot_of_a_stranger_changes_nothing/1, a_vote_for_a_stranger_is_not_given/1,
         a_stranger_cannot_have_members_changed/1, a_stranger_cannot_change_the_secret/1,
         a_greeting_of_a_stranger_makes_nobody_wait/1, health_messages_do_not_go_to_a_stranger/1,
         a_flood_is_counted_and_logged_now_and_then/1, the_data_is_whole_after_all_of_it/1]).
-export([the_id_of_a_member_under_another_name_is_refused/1, the_name_of_a_member_with_another_id_is_refused/1,
         what_no_sound_leader_sends_is_refused/1, a_member_that_comes_back_is_taken_in/1]).
-export([a_node_with_the_name_of_a_member_that_is_down_is_refused/1, a_proof_cannot_be_used_again/1,
         the_key_is_in_no_log/1, a_gateway_with_another_key_stays_out_and_is_told_of/1,
         a_gateway_is_added_with_the_key/1]).
-export([a_key_that_others_can_read_is_refused/1, a_short_key_is_refused/1,
         both_say_so_when_a_data_directory_is_used_twice/1]).
-export([a_ballot_of_a_stranger_stops_no_bootstrap/1, a_ballot_out_of_bounds_stops_no_bootstrap/1,
         a_bootstrap_that_waits_says_for_whom/1]).
-export([a_poisoned_log_is_named_without_a_backtrace/1]).

-define(REGISTRY, esdb_gater_worker_registry).
-define(GATEWAYS, esdb_gater_gateway).
-define(RELAY, esdb_gater_relay).
-define(KEY, "a key that nobody else knows, for tests").
-define(HUGE, 16#FFFFFFFFFFFFFFFF).

suite() -> [{timetrap, {minutes, 4}}].

all() -> [{group, alone}, {group, three}, {group, key}, {group, settings}, {group, bootstrap}, {group, poisoned}].

groups() ->
    [{alone, [], [
         entries_of_a_stranger_change_nothing, entries_out_of_order_change_nothing,
         a_snapshot_of_a_stranger_changes_nothing, a_vote_for_a_stranger_is_not_given,
         a_stranger_cannot_have_members_changed, a_stranger_cannot_change_the_secret,
         a_greeting_of_a_stranger_makes_nobody_wait, health_messages_do_not_go_to_a_stranger,
         a_flood_is_counted_and_logged_now_and_then, the_data_is_whole_after_all_of_it]},
     {three, [], [
         the_id_of_a_member_under_another_name_is_refused,
         the_name_of_a_member_with_another_id_is_refused, what_no_sound_leader_sends_is_refused,
         a_member_that_comes_back_is_taken_in]},
     {key, [], [
         a_node_with_the_name_of_a_member_that_is_down_is_refused, a_proof_cannot_be_used_again,
         a_gateway_with_another_key_stays_out_and_is_told_of, a_gateway_is_added_with_the_key,
         the_key_is_in_no_log]},
     {settings, [], [a_key_that_others_can_read_is_refused, a_short_key_is_refused,
                     both_say_so_when_a_data_directory_is_used_twice]},
     {bootstrap, [], [a_bootstrap_that_waits_says_for_whom, a_ballot_of_a_stranger_stops_no_bootstrap,
                      a_ballot_out_of_bounds_stops_no_bootstrap]},
     {poisoned, [], [a_poisoned_log_is_named_without_a_backtrace]}].

init_per_suite(Config) -> Config.

end_per_suite(_) -> ok.

init_per_group(alone, Config) ->
    World = gater_harness:new(),
    Gateway = gater_harness:gateway(World),
    Beam = gater_harness:node(World, #{modules => [?MODULE, gater_forge]}),
    Stranger = gater_harness:node(World, #{modules => [?MODULE, gater_forge]}),
    Agent = {_, Worker} = gater_harness:agent(Beam),
    ok = gater_harness:call(Beam, {?REGISTRY, Gateway}, {register, honest, Worker}),
    [{world, World}, {gateway, Gateway}, {beam, Beam}, {stranger, Stranger}, {agent, Agent} | Config];
init_per_group(three, Config) ->
    cluster(#{}, Config);
init_per_group(key, Config) ->
    cluster(#{env => [{"ESDB_GATER_CLUSTER_KEY", ?KEY}]}, Config);
init_per_group(_, Config) ->
    World = gater_harness:new(),
    [{world, World} | Config].

%% Three gateways, a worker that all know, and the third down: its name is free.
cluster(Options, Config) ->
    {ok, Cluster} = gater_cluster:start(Options#{beams => 2, modules => [?MODULE, gater_forge]}),
    gater_cluster:settle(Cluster),
    [First, _, Third] = gater_cluster:gateways(Cluster),
    Worker = gater_cluster:on(Cluster, fun gater_agent:start/0),
    ok = registered(Cluster, First, honest, Worker),
    #{id := ThirdId, members := _} = gater_cluster:status(Cluster, Third),
    Port = maps:get(port, gater_cluster:handle(Cluster, First)),
    gater_cluster:kill(Cluster, Third),
    [{cluster, Cluster}, {third, Third}, {third_id, ThirdId}, {first, First}, {port, Port}, {worker, Worker}
     | Config].

end_per_group(Group, Config) when Group =:= three; Group =:= key -> gater_cluster:stop(value(cluster, Config));
end_per_group(_, Config) -> gater_harness:stop(value(world, Config)).

init_per_testcase(_, Config) -> Config.

end_per_testcase(_, _) -> ok.

%%% A gateway alone, and a stranger

entries_of_a_stranger_change_nothing(Config) ->
    #{id := Id} = status(Config),
    Forged = gater_forge:entry(gater_forge:log_id(9, 7, 1000),
                               gater_forge:batch([gater_forge:registering(forged, {forged@nowhere, 1, 0, 1})])),
    [say(Config, gater_forge:question({Id, 7}, gater_forge:append(Id, Vote, Place, Entries)))
     || {Vote, Place, Entries} <- [
            {gater_forge:vote(?HUGE, 7, true), {none, none}, []},
            {gater_forge:vote(9, 7, true), {gater_forge:log_id(9, 7, 999), none}, [Forged]},
            {gater_forge:vote(9, Id, true), {none, none}, [Forged]},
            %% As the gateway itself.
            {gater_forge:vote(?HUGE, Id, true), {none, none}, []}]],
    all_is_well(Config).

entries_out_of_order_change_nothing(Config) ->
    #{id := Id, applied := Applied} = status(Config),
    Vote = gater_forge:vote(9, 7, true),
    Blank = fun(Index) -> gater_forge:entry(gater_forge:log_id(9, 7, Index), gater_forge:blank()) end,
    Place = fun(Index) -> gater_forge:log_id(9, 7, Index) end,
    [say(Config, gater_forge:question({Id, 7}, gater_forge:append(Id, Vote, At, Entries)))
     || {At, Entries} <- [
            {{none, none}, [Blank(0)]},
            {{none, none}, [Blank(Applied + 1)]},
            {{Place(Applied), Place(Applied + 1)}, [Blank(Applied + 1)]},
            {{none, Place(?HUGE)}, []},
            {{Place(0), Place(Applied + 7)}, [Blank(1), Blank(3)]}]],
    all_is_well(Config).

a_snapshot_of_a_stranger_changes_nothing(Config) ->
    #{id := Id, applied := Applied} = status(Config),
    Vote = gater_forge:vote(9, 7, true),
    Last = gater_forge:log_id(9, 7, Applied + 100),
    Members = gater_forge:membership([{Id, ""}]),
    Body = gater_forge:snapshot_body(1, 1 bsl 16, [{1 bsl 16, forged, {forged@nowhere, 1, 0, 1}}]),
    [say(Config, gater_forge:question({Id, 7}, gater_forge:snapshot(Id, Vote, Last, Members, 0, Bytes)))
     || Bytes <- [rand:bytes(1000), <<>>, Body]],
    all_is_well(Config).

a_vote_for_a_stranger_is_not_given(Config) ->
    #{id := Id, term := Term} = status(Config),
    [say(Config, gater_forge:question({Id, 7}, gater_forge:vote_request(Id, T, Candidate, gater_forge:log_id(T, 7, 1 bsl 40))))
     || T <- [?HUGE, 9], Candidate <- [7, Id]],
    all_is_well(Config),
    ?assertMatch(#{term := Term}, status(Config)).

a_stranger_cannot_have_members_changed(Config) ->
    #{id := Id, members := Members} = status(Config),
    #{node := Own} = value(stranger, Config),
    say(Config, gater_forge:question({Id, 7}, gater_forge:admit(7, atom_to_list(Own)))),
    say(Config, gater_forge:question({none, 7}, gater_forge:prepare({?HUGE, 7}))),
    say(Config, gater_forge:question({none, 7}, gater_forge:accept({?HUGE, 7}, 5, [{7, atom_to_list(Own)}]))),
    say(Config, gater_forge:question({Id, 7}, gater_forge:forward(tl(gater_forge:batch(
        [gater_forge:registering(forged, {forged@nowhere, 1, 0, 1})]))))),
    all_is_well(Config),
    #{members := After} = status(Config),
    Known = fun(Of) -> [maps:remove(settled, Member) || Member <- Of] end,
    ?assertEqual(Known(Members), Known(After)).

%% The word that gateways pass on when a secret is changed.
a_stranger_cannot_change_the_secret(Config) ->
    greet(Config),
    say(Config, ?RELAY, gater_forge:relay(gater_forge:relay_secret(<<"forged">>))),
    all_is_well(Config),
    ?assertEqual(nomatch, binary:match(gater_harness:log(value(gateway, Config)), <<"the secret was changed">>)).

a_greeting_of_a_stranger_makes_nobody_wait(Config) ->
    greet(Config),
    all_is_well(Config),
    Beam = value(beam, Config),
    #{node := Node} = value(gateway, Config),
    {Micros, _} = timer:tc(fun() ->
        gater_harness:on(Beam, fun() ->
            [ok = gen_server:call({esdb_channel_events, Node}, {subscribe, <<"topic", (integer_to_binary(N))/binary>>, self()})
             || N <- lists:seq(1, 5)],
            [[_] = gen_server:call({esdb_channel_events, Node}, {get_subscribers, <<"topic1">>}) || _ <- lists:seq(1, 5)]
        end)
    end),
    %% A second each where the stranger is waited for.
    ?assert(Micros < 5000000).

health_messages_do_not_go_to_a_stranger(Config) ->
    #{node := Node} = value(gateway, Config),
    Listener = gater_harness:on(value(stranger, Config), fun() ->
        gater_agent:start()
    end),
    greet(Config, Listener),
    all_is_well(Config),
    ok = gater_harness:on(value(beam, Config), fun() ->
        gen_server:call({esdb_channel_health, Node}, {publish, <<"topic">>, #{status => fine}})
    end),
    all_is_well(Config),
    ?assertEqual([], gater_harness:messages({value(stranger, Config), Listener})).

a_flood_is_counted_and_logged_now_and_then(Config) ->
    #{node := Node} = Gateway = value(gateway, Config),
    #{node := Own} = Stranger = value(stranger, Config),
    #{id := Id} = status(Config),
    Before = byte_size(gater_harness:log(Gateway)),
    Forged = gater_forge:question({none, 7}, gater_forge:prepare({?HUGE, 7})),
    Append = gater_forge:question({Id, 7}, gater_forge:append(Id, gater_forge:vote(?HUGE, 7, true), [])),
    Noise = rand:bytes(100),
    gater_harness:on(Stranger, fun() ->
        [erlang:send({Name, Node}, Message)
         || _ <- lists:seq(1, 2000), {Name, Message} <- [{?GATEWAYS, Forged}, {?GATEWAYS, Append}, {?GATEWAYS, Noise},
                                                         {?RELAY, Noise}]],
        pong = net_adm:ping(Node)
    end),
    all_is_well(Config),
    #{refused := Refused} = status(Config),
    ?assert(Refused >= 8000),
    Log = gater_harness:log(Gateway),
    ?assertMatch({match, _}, re:run(Log, atom_to_list(Own))),
    ?assert(byte_size(Log) - Before < 4000).

the_data_is_whole_after_all_of_it(Config) ->
    World = value(world, Config),
    Gateway = value(gateway, Config),
    gater_harness:signal(Gateway, "KILL"),
    137 = gater_harness:await_exit(World, Gateway),
    Again = gater_harness:restart(World, Gateway),
    all_is_well([{gateway, Again} | Config]),
    gater_harness:signal(Again, "TERM"),
    ?assertEqual(0, gater_harness:await_exit(World, Again)).

%% The gateway runs, knows its honest worker and no other, and takes registrations.
all_is_well(Config) ->
    Gateway = value(gateway, Config),
    Beam = value(beam, Config),
    {_, Worker} = value(agent, Config),
    #{node := Node} = Beam,
    %% What the stranger said before this is dealt with: one connection is in order.
    pong = gater_harness:on(value(stranger, Config), fun() -> net_adm:ping(maps:get(node, Gateway)) end),
    {_, Other} = gater_harness:agent(Beam),
    ok = gater_harness:call(Beam, {?REGISTRY, Gateway}, {register, other, Other}),
    ok = gater_harness:call(Beam, {?REGISTRY, Gateway}, {unregister, other, Other}),
    ?assert(gater_harness:alive(Gateway)),
    ?assertEqual({ok, [{Node, Worker}]}, gater_harness:call(Beam, {?REGISTRY, Gateway}, {get_workers, honest})),
    ?assertEqual({ok, []}, gater_harness:call(Beam, {?REGISTRY, Gateway}, {get_workers, forged})).

say(Config, Message) -> say(Config, ?GATEWAYS, Message).

say(Config, Name, Message) ->
    #{node := Node} = value(gateway, Config),
    gater_harness:on(value(stranger, Config), fun() ->
        pong = net_adm:ping(Node),
        erlang:send({Name, Node}, Message)
    end).

greet(Config) ->
    greet(Config, gater_harness:on(value(stranger, Config), fun() -> gater_agent:start() end)).

greet(Config, Pid) ->
    #{id := Id} = status(Config),
    #{node := Node} = value(stranger, Config),
    <<131, 88, 119, Length, _:Length/binary, Number:32, Serial:32, Creation:32>> =
        gater_harness:on(value(stranger, Config), fun() -> term_to_binary(Pid, [{minor_version, 2}]) end),
    say(Config, ?RELAY, gater_forge:relay(gater_forge:relay_hello(Id, {Node, Number, Serial, Creation}))).

status(Config) ->
    {ok, Status} = gater_harness:call(value(beam, Config), {esdb_gater_cluster, value(gateway, Config)}, status),
    Status.

%%% Three, of which one is down

%% The id may be known to everybody: `cluster status' tells it.
the_id_of_a_member_under_another_name_is_refused(Config) ->
    attack(Config, "impostor" ++ gater_harness:unique("") ++ "@127.0.0.1", value(third_id, Config)),
    cluster_is_well(Config).

the_name_of_a_member_with_another_id_is_refused(Config) ->
    attack(Config, atom_to_list(value(third, Config)), 7),
    cluster_is_well(Config).

%% With its name and its id, a node that knows the cookie is taken for the member, as there is no
%% key. What no leader can send stays refused.
what_no_sound_leader_sends_is_refused(Config) ->
    Third = value(third_id, Config),
    #{id := Id, applied := Applied, term := Term} = first_status(Config),
    Cluster = cluster_id(Config),
    Socket = connect(Config, atom_to_list(value(third, Config))),
    %% Nothing is judged of one that has not told what it remembers.
    introduce(Socket, {Cluster, Third}),
    #{refused := Refused0} = first_status(Config),
    gater_harness:until(fun() ->
        shout(Socket, gater_forge:question({Cluster, Third}, gater_forge:vote_request(Id, ?HUGE, Third, none))),
        maps:get(refused, first_status(Config)) > Refused0
    end),
    Status = first_status(Config),
    Vote = gater_forge:vote(Term + 1, Third, true),
    At = fun(Index) -> gater_forge:log_id(Term + 1, Third, Index) end,
    Blank = fun(Index) -> gater_forge:entry(At(Index), gater_forge:blank()) end,
    Members = gater_forge:membership([{Id, atom_to_list(value(first, Config))}]),
    [shout(Socket, gater_forge:question({Cluster, Third}, Question))
     || Question <- [
            gater_forge:append(Id, gater_forge:vote(?HUGE, Third, true), []),
            gater_forge:append(Id, gater_forge:vote(Term + 1, Id, true), []),
            gater_forge:append(Id, gater_forge:vote(Term + 1, Third, false), []),
            gater_forge:append(Id, Vote, {none, none}, [Blank(1)]),
            gater_forge:append(Id, Vote, {none, none}, [Blank(0)]),
            gater_forge:append(Id, Vote, {At(Applied - 1), none}, [Blank(Applied)]),
            gater_forge:append(Id, Vote, {At(?HUGE - 1), none}, [Blank(?HUGE)]),
            gater_forge:append(Id, Vote, {none, At(?HUGE)}, []),
            gater_forge:vote_request(Id, ?HUGE, Third, At(Applied + 1)),
            gater_forge:vote_request(Id, Term + 1, Id, At(Applied + 1)),
            gater_forge:snapshot(Id, Vote, At(Applied + 50), Members, 0, rand:bytes(500)),
            gater_forge:snapshot(Id, Vote, At(?HUGE), Members, 0, <<>>)]],
    _ = gater_wire:call(Socket, gater_wire:pid(atom_to_list(value(third, Config)), 9, 5), esdb_gater_cluster, status),
    gen_tcp:close(Socket),
    %% They are judged beside the connection, so its last answer may come before the last verdict.
    gater_harness:until(fun() ->
        maps:get(refused, first_status(Config)) >= 12 + maps:get(refused, Status)
    end),
    cluster_is_well(Config).

a_member_that_comes_back_is_taken_in(Config) ->
    Cluster = value(cluster, Config),
    gater_cluster:up(Cluster, value(third, Config)),
    gater_cluster:settle(Cluster),
    cluster_is_well(Config),
    gater_cluster:kill(Cluster, value(third, Config)).

%% All that an attacker can say, under this name and id.
attack(Config, Name, Sender) ->
    #{id := Id, applied := Applied, refused := Before} = first_status(Config),
    %% It is asked under the name of the third: before that name is taken here.
    Cluster = cluster_id(Config),
    Socket = connect(Config, Name),
    Vote = gater_forge:vote(1000, Sender, true),
    Entry = gater_forge:entry(gater_forge:log_id(1000, Sender, Applied + 1),
                              gater_forge:batch([gater_forge:registering(forged, {forged@nowhere, 1, 0, 1})])),
    Body = gater_forge:snapshot_body(1, 1 bsl 16, [{1 bsl 16, forged, {forged@nowhere, 1, 0, 1}}]),
    Questions = [
        gater_forge:append(Id, Vote, []),
        gater_forge:append(Id, Vote, {gater_forge:log_id(1, Sender, Applied), none}, [Entry]),
        gater_forge:snapshot(Id, Vote, gater_forge:log_id(1000, Sender, Applied + 50),
                             gater_forge:membership([{Sender, Name}]), 0, Body),
        gater_forge:vote_request(Id, 1000, Sender, gater_forge:log_id(999, Sender, Applied + 50)),
        gater_forge:forward(tl(gater_forge:batch([gater_forge:registering(forged, {forged@nowhere, 1, 0, 1})]))),
        gater_forge:remove(atom_to_list(value(first, Config)))],
    [shout(Socket, gater_forge:question({Cluster, Sender}, Question)) || Question <- Questions],
    shout(Socket, ?RELAY, gater_forge:relay(gater_forge:relay_hello(Sender, {list_to_atom(Name), 9, 0, 5}))),
    shout(Socket, ?RELAY, gater_forge:relay(gater_forge:relay_secret(<<"forged">>))),
    %% An answer to this comes after everything before was dealt with.
    {ok, _} = gater_wire:call(Socket, gater_wire:pid(Name, 9, 5), esdb_gater_cluster, status),
    gen_tcp:close(Socket),
    #{refused := After} = first_status(Config),
    ?assert(After >= Before + length(Questions) + 2),
    Log = gater_cluster:log(value(cluster, Config), value(first, Config)),
    ?assertMatch({match, _}, re:run(Log, Name)).

connect(Config, Name) ->
    Cookie = gater_harness:cookie(gater_cluster:world(value(cluster, Config))),
    {ok, Socket} = gater_wire:connect(value(port, Config), Name, Cookie, #{creation => 5}),
    Socket.

%% Answers the gateway's question who this is.
introduce(Socket, Sender) ->
    case gater_wire:terms(Socket, 10000) of
        {{_, _, _, ?GATEWAYS}, Message} when is_binary(Message) ->
            case gater_forge:hello_answer(Sender, Message) of
                other -> introduce(Socket, Sender);
                Answer -> shout(Socket, Answer)
            end;
        {error, Reason} -> ct:fail({not_asked, Reason});
        _ -> introduce(Socket, Sender)
    end.

shout(Socket, Message) -> shout(Socket, ?GATEWAYS, Message).

shout(Socket, To, Message) ->
    ok = gater_wire:send(Socket, {6, gater_wire:pid("any@127.0.0.1", 9, 5), '', To}, term_to_binary(Message)).

%% Both that are left agree, know their worker and no other, and take registrations.
cluster_is_well(Config) ->
    Cluster = value(cluster, Config),
    gater_cluster:settle(Cluster),
    Worker = value(worker, Config),
    Up = [Gateway || Gateway <- gater_cluster:gateways(Cluster), gater_cluster:state(Cluster, Gateway) =:= up],
    ?assert(length(Up) >= 2),
    Other = gater_cluster:on(Cluster, fun gater_agent:start/0),
    [begin
         ok = registered(Cluster, Gateway, other, Other),
         gater_harness:until(fun() -> workers(Cluster, Gateway, honest) =:= [Worker] end),
         ?assertEqual([], workers(Cluster, Gateway, forged)),
         ?assertEqual(nomatch, binary:match(gater_cluster:log(Cluster, Gateway), <<"the secret was changed">>))
     end || Gateway <- Up].

%% A leader may just be looked for.
registered(Cluster, Gateway, Store, Pid) ->
    gater_harness:until(fun() ->
        ok =:= gater_cluster:call(Cluster, hd(gater_cluster:beams(Cluster)), {?REGISTRY, Gateway}, {register, Store, Pid})
    end).

workers(Cluster, Gateway, Store) ->
    {ok, Workers} = gater_cluster:call(Cluster, hd(gater_cluster:beams(Cluster)), {?REGISTRY, Gateway}, {get_workers, Store}),
    [Pid || {_, Pid} <- Workers].

first_status(Config) -> gater_cluster:status(value(cluster, Config), value(first, Config)).

%% The name of the cluster goes with every answer. A gateway tells it to whoever it takes for one;
%% it stands in its data directory as well.
cluster_id(Config) ->
    Name = atom_to_list(value(third, Config)),
    case value(cluster_id, Config) of
        undefined ->
            Socket = connect(Config, Name),
            shout(Socket, gater_forge:question({none, value(third_id, Config)}, gater_forge:hello())),
            Found = cluster_of_answer(Socket),
            gen_tcp:close(Socket),
            Found;
        Known ->
            Known
    end.

cluster_of_answer(Socket) ->
    case gater_wire:terms(Socket, 3000) of
        {{_, _, _, ?GATEWAYS}, <<3, 1, Rest/binary>>} -> varint(Rest);
        {error, _} -> none;
        _ -> cluster_of_answer(Socket)
    end.

varint(Bytes) -> varint(Bytes, 0).

varint(<<0:1, Low:7, _/binary>>, Shift) -> Low bsl Shift;
varint(<<1:1, Low:7, Rest/binary>>, Shift) -> (Low bsl Shift) bor varint(Rest, Shift + 7).

%%% With a key

a_node_with_the_name_of_a_member_that_is_down_is_refused(Config) ->
    attack([{cluster_id, 1} | Config], atom_to_list(value(third, Config)), value(third_id, Config)),
    cluster_is_well(Config),
    ?assertMatch({match, _}, re:run(gater_cluster:log(value(cluster, Config), value(first, Config)), "cluster.key")).

%% What a gateway answers one challenge with proves nothing on another connection.
a_proof_cannot_be_used_again(Config) ->
    Name = atom_to_list(value(third, Config)),
    Challenge = iolist_to_binary([4, 0, 7, 0, 2, 0, rand:bytes(32)]),
    Proof = begin
        Socket = connect(Config, Name),
        shout(Socket, Challenge),
        Found = proof(Socket),
        gen_tcp:close(Socket),
        Found
    end,
    ?assertMatch(<<_:32/binary>>, Proof),
    Again = connect(Config, Name),
    #{refused := Before} = first_status(Config),
    shout(Again, Challenge),
    shout(Again, iolist_to_binary([4, 0, 7, 0, 2, 1, Proof])),
    {ok, _} = gater_wire:call(Again, gater_wire:pid(Name, 9, 5), esdb_gater_cluster, status),
    gen_tcp:close(Again),
    #{refused := After} = first_status(Config),
    ?assert(After > Before),
    cluster_is_well(Config).

%% The proof in what a gateway sends; all its messages are of one form.
proof(Socket) ->
    case gater_wire:terms(Socket, 3000) of
        {{_, _, _, ?GATEWAYS}, Message} when byte_size(Message) < 60, byte_size(Message) > 34 ->
            Size = byte_size(Message) - 34,
            case Message of
                <<_:Size/binary, 2, 1, Proof:32/binary>> -> Proof;
                _ -> proof(Socket)
            end;
        {error, _} = Error -> Error;
        _ -> proof(Socket)
    end.

a_gateway_with_another_key_stays_out_and_is_told_of(Config) ->
    Cluster = value(cluster, Config),
    Other = gater_cluster:add_gateway(Cluster, #{env => [{"ESDB_GATER_CLUSTER_KEY", "another key, of whoever came first"}]}),
    try
        {Code, Text} = gater_cluster:command(Cluster, value(first, Config), ["add", atom_to_list(Other)]),
        ?assertEqual(1, Code),
        ?assertMatch({match, _}, re:run(Text, "cluster.key")),
        ?assertMatch({match, _}, re:run(gater_cluster:log(Cluster, Other), "does not know the key of the cluster"))
    after
        gater_cluster:kill(Cluster, Other),
        gater_cluster:retire(Cluster, Other)
    end,
    cluster_is_well(Config).

a_gateway_is_added_with_the_key(Config) ->
    Cluster = value(cluster, Config),
    gater_cluster:up(Cluster, value(third, Config)),
    gater_cluster:settle(Cluster),
    Fourth = gater_cluster:add_gateway(Cluster, #{}),
    {0, _} = gater_cluster:command(Cluster, value(first, Config), ["add", atom_to_list(Fourth)]),
    cluster_is_well(Config).

the_key_is_in_no_log(Config) ->
    Cluster = value(cluster, Config),
    [?assertEqual(nomatch, binary:match(gater_cluster:log(Cluster, Gateway), list_to_binary(?KEY)))
     || Gateway <- gater_cluster:gateways(Cluster)].

%%% Settings

a_key_that_others_can_read_is_refused(Config) ->
    World = value(world, Config),
    File = filename:join(gater_harness:dir(World), "key"),
    ok = file:write_file(File, ?KEY "\n"),
    ok = file:change_mode(File, 8#644),
    {error, {ended, 64, Text}} = gater_harness:launch(World, #{args => ["--cluster-key-file", File]}),
    ?assertMatch({match, _}, re:run(Text, "cluster\\.key_file.*--cluster-key-file.*chmod 600")),
    ?assertEqual(nomatch, binary:match(Text, list_to_binary(?KEY))),
    ok = file:change_mode(File, 8#600),
    Gateway = gater_harness:gateway(World, #{args => ["--cluster-key-file", File]}),
    gater_harness:signal(Gateway, "TERM"),
    0 = gater_harness:await_exit(World, Gateway),
    {ok, Gateway2} = gater_harness:launch(World, #{config => "[cluster]\nkey = \"" ?KEY "\"\n"}),
    gater_harness:signal(Gateway2, "TERM"),
    0 = gater_harness:await_exit(World, Gateway2).

a_short_key_is_refused(Config) ->
    {error, {ended, 64, Text}} =
        gater_harness:launch(value(world, Config), #{env => [{"ESDB_GATER_CLUSTER_KEY", "too short"}]}),
    ?assertMatch({match, _}, re:run(Text, "cluster\\.key.*at least 16 bytes")),
    ?assertEqual(nomatch, binary:match(Text, <<"too short">>)).

both_say_so_when_a_data_directory_is_used_twice(Config) ->
    World = value(world, Config),
    Names = [First, Second] = [gater_harness:unique(Base) ++ "@127.0.0.1" || Base <- ["first", "second"]],
    Dir = fun(Name) -> filename:join(gater_harness:dir(World), Name) end,
    Alone = gater_harness:gateway(World, #{name => First}),
    gater_harness:signal(Alone, "TERM"),
    0 = gater_harness:await_exit(World, Alone),
    [] = os:cmd("cp -r " ++ Dir(First) ++ " " ++ Dir(Second)),
    Gateways = [gater_harness:gateway(World, #{name => Name, args => ["--cluster", lists:append(lists:join(",", Names))]})
                || Name <- Names],
    [gater_harness:until(fun() ->
         match =:= re:run(gater_harness:log(Gateway), "another gateway has the id of this one", [{capture, none}])
     end) || Gateway <- Gateways].

%%% Before there is a cluster

a_bootstrap_that_waits_says_for_whom(_) ->
    {ok, Cluster} = gater_cluster:start(#{absent => 2, beams => 1}),
    try
        [First, Second, Third] = gater_cluster:gateways(Cluster),
        gater_harness:until(fun() ->
            Log = gater_cluster:log(Cluster, First),
            lists:all(fun(Name) ->
                match =:= re:run(Log, "not a member of a cluster yet.*" ++ atom_to_list(Name), [{capture, none}])
            end, [Second, Third])
        end)
    after
        gater_cluster:stop(Cluster)
    end.

a_ballot_of_a_stranger_stops_no_bootstrap(_) -> bootstrap_with(fun(_) -> "stranger@127.0.0.1" end).

%% In the name of the listed gateway that is not there yet.
a_ballot_out_of_bounds_stops_no_bootstrap(_) -> bootstrap_with(fun(Third) -> atom_to_list(Third) end).

bootstrap_with(Named) ->
    {ok, Cluster} = gater_cluster:start(#{absent => 2, beams => 1, modules => [?MODULE, gater_forge]}),
    try
        [First, Second, Third] = gater_cluster:gateways(Cluster),
        Port = maps:get(port, gater_cluster:handle(Cluster, First)),
        Name = Named(Third),
        Cookie = gater_harness:cookie(gater_cluster:world(Cluster)),
        {ok, Socket} = gater_wire:connect(Port, Name, Cookie, #{creation => 5}),
        [shout(Socket, gater_forge:question({none, 7}, Question))
         || Question <- [gater_forge:prepare({?HUGE, ?HUGE}), gater_forge:prepare({?HUGE, 7}),
                         gater_forge:prepare({1 bsl 60, 7}),
                         gater_forge:accept({?HUGE, 7}, 5, [{7, Name}]),
                         gater_forge:accept({1, 7}, 5, [{7, Name}])]],
        {ok, _} = gater_wire:call(Socket, gater_wire:pid(Name, 9, 5), esdb_gater_cluster, status),
        gater_cluster:up(Cluster, Second),
        gater_harness:until(fun() -> is_map(gater_cluster:status(Cluster, First)) andalso
            gater_cluster:settled(Cluster) end, 60000),
        gen_tcp:close(Socket)
    after
        gater_cluster:stop(Cluster)
    end.

%%% A log that cannot be made any more

%% As an earlier version left it behind: a vote in the last term there is.
a_poisoned_log_is_named_without_a_backtrace(Config) ->
    World = value(world, Config),
    Gateway = #{options := Options} = gater_harness:gateway(World),
    gater_harness:signal(Gateway, "TERM"),
    0 = gater_harness:await_exit(World, Gateway),
    Dir = filename:join(gater_harness:dir(World), maps:get(name, Options)),
    [Log] = filelib:wildcard(filename:join(Dir, "registry-*.log")),
    poison(Log),
    {ok, Before} = file:read_file(Log),
    {error, {ended, 1, Text}} = gater_harness:launch(World, Options),
    ?assertMatch({match, _}, re:run(Text, "registry-")),
    ?assertMatch({match, _}, re:run(Text, re:replace(Dir, "\\.", "\\\\.", [global, {return, list}]))),
    ?assertMatch({match, _}, re:run(Text, "cluster add")),
    [?assertEqual(nomatch, re:run(Text, Word)) || Word <- ["panic", "RUST_BACKTRACE", "stack backtrace"]],
    ?assertEqual({ok, Before}, file:read_file(Log)).

%% Adds a frame with a vote in the term 2^64 - 1 to a log that was closed.
poison(File) ->
    {ok, Bytes} = file:read_file(File),
    Sequence = last_sequence(Bytes, 0),
    Vote = iolist_to_binary([1, gater_forge:vote(?HUGE, 7, true)]),
    Closed = <<8, 1:32, 1>>,
    Payload = <<3, (byte_size(Vote)):32, Vote/binary, Closed/binary>>,
    Checked = <<(byte_size(Payload)):32, (Sequence + 1):64>>,
    Frame = <<16#ff, 0, 16#ff, $w, Checked/binary, (erlang:crc32([Checked, Payload])):32, Payload/binary>>,
    ok = file:write_file(File, [Bytes, Frame]).

last_sequence(Bytes, Last) ->
    case binary:match(Bytes, <<16#ff, 0, 16#ff, $w>>) of
        {At, 4} ->
            <<_:At/binary, _:4/binary, Length:32, Sequence:64, _:32, _:Length/binary, Rest/binary>> = Bytes,
            last_sequence(Rest, Sequence);
        nomatch ->
            Last
    end.

value(Key, Config) -> proplists:get_value(Key, Config).
