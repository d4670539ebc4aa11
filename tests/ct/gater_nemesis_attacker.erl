%% @doc A node that knows the cookie and wants to do harm: without end it sends the gateways what
%% only gateways may send each other, as the plain node it is, and over raw sockets under names of
%% its own and of the gateways.
-module(gater_nemesis_attacker).

-export([modules/0, join/1, start/1, sent/0]).

%% Between two messages.
-define(PAUSE_MS, 5).
%% Messages over one raw connection.
-define(VOLLEY, 20).
-define(CALL_MS, 1000).
-define(HUGE, 16#FFFFFFFFFFFFFFFF).

%% @doc What its node must have loaded.
-spec modules() -> [module()].
modules() -> [?MODULE, gater_forge, gater_wire].

%% @doc Starts it on a further node of a cluster's network; that node.
-spec join(gater_cluster:cluster()) -> node().
join(Cluster) ->
    Attacker = gater_cluster:outsider(Cluster),
    Gateways = gater_cluster:gateways(Cluster),
    ok = gater_cluster:on(Cluster, Attacker, fun() -> start(Gateways) end),
    Attacker.

%% @doc Starts it on this node, against these gateways.
-spec start([node()]) -> ok.
start(Gateways) ->
    Self = self(),
    _ = spawn(fun() ->
        true = register(?MODULE, self()),
        Counter = counters:new(1, []),
        persistent_term:put(?MODULE, Counter),
        _ = [spawn_link(fun() -> plain(Gateways, Counter) end), spawn_link(fun() -> raw(Gateways, Counter) end)],
        Self ! {?MODULE, started},
        receive stop -> ok end
    end),
    receive {?MODULE, started} -> ok end.

%% @doc How many messages it has sent.
-spec sent() -> non_neg_integer().
sent() -> counters:get(persistent_term:get(?MODULE), 1).

%% Over the connections of this node.
plain(Gateways, Counter) ->
    Gateway = one_of(Gateways),
    {Name, Message} = message(Gateway, Gateways),
    _ = erlang:send({Name, Gateway}, Message, [noconnect]) =:= noconnect andalso net_kernel:connect_node(Gateway),
    counters:add(Counter, 1, 1),
    pause(),
    plain(Gateways, Counter).

%% Over sockets of its own.
raw(Gateways, Counter) ->
    Gateway = one_of(Gateways),
    Name = one_of(["attacker@127.0.0.1" | [atom_to_list(Other) || Other <- Gateways, Other =/= Gateway]]),
    try connect(Gateway, Name) of
        {ok, Socket} ->
            _ = [begin
                     {To, Message} = message(Gateway, Gateways),
                     _ = gater_wire:send(Socket, {6, gater_wire:pid(Name, 9, 5), '', To}, term_to_binary(Message)),
                     counters:add(Counter, 1, 1),
                     pause()
                 end || _ <- lists:seq(1, ?VOLLEY)],
            gen_tcp:close(Socket);
        {error, _} ->
            ok
    catch
        %% It is down, or out of reach.
        _:_ -> ok
    end,
    pause(),
    raw(Gateways, Counter).

connect(Gateway, Name) ->
    [Short, Host] = string:split(atom_to_list(Gateway), "@"),
    {ok, Address} = inet:parse_address(Host),
    {port, Port, _} = erl_epmd:port_please(Short, Address, ?CALL_MS),
    gater_wire:connect(Port, Name, atom_to_list(erlang:get_cookie()), #{address => Address, creation => 5}).

%% What is said, with what can be known: ids, terms and places are told to everybody who asks.
message(Gateway, Gateways) ->
    Status = status(Gateway),
    Id = maps:get(id, Status, 1),
    Ids = [Member || #{id := Member} <- maps:get(members, Status, [])] ++ [1],
    Term = maps:get(term, Status, 1) + rand:uniform(3) - 1,
    Index = max(0, maps:get(applied, Status, 1) + rand:uniform(7) - 4),
    Sender = one_of(Ids),
    Cluster = one_of([none, Id, Sender, rand:uniform(?HUGE)]),
    Vote = gater_forge:vote(one_of([Term, ?HUGE]), one_of([Sender, Id]), one_of([true, false])),
    Place = fun() -> one_of([none, {Term, Sender, Index}, {Term, Sender, 0}, {?HUGE, Sender, ?HUGE}]) end,
    At = {Term, Sender, Index},
    Forged = gater_forge:batch([gater_forge:registering(red_store, {Gateway, 1, 0, 1})]),
    Entry = gater_forge:entry(one_of([At, {?HUGE, Sender, 0}]), one_of([Forged, gater_forge:blank()])),
    Members = gater_forge:membership([{Sender, atom_to_list(one_of(Gateways))}]),
    Body = one_of([rand:bytes(200), gater_forge:snapshot_body(1, 0, [])]),
    Question = fun(Content) ->
        {esdb_gater_gateway, gater_forge:question({Cluster, Sender}, rand:uniform(1000), Content)}
    end,
    Say = one_of([
        fun() -> Question(gater_forge:append(Id, Vote, {Place(), Place()}, [Entry])) end,
        fun() -> Question(gater_forge:append(Id, Vote, {Place(), Place()}, [])) end,
        fun() -> Question(gater_forge:snapshot(Id, Vote, At, Members, one_of([0, ?HUGE]), Body)) end,
        fun() -> Question(gater_forge:vote_request(Id, one_of([Term, ?HUGE]), Sender, Place())) end,
        fun() -> Question(gater_forge:prepare({one_of([1, ?HUGE]), Sender})) end,
        fun() -> Question(gater_forge:accept({one_of([1, ?HUGE]), Sender}, 5,
                                             [{Sender, atom_to_list(one_of(Gateways))}])) end,
        fun() -> Question(gater_forge:admit(Sender, atom_to_list(one_of(Gateways)))) end,
        fun() -> Question(gater_forge:remove(atom_to_list(one_of(Gateways)))) end,
        fun() -> Question(gater_forge:forward(tl(Forged))) end,
        fun() -> Question(gater_forge:hello()) end,
        fun() -> {esdb_gater_gateway, rand:bytes(rand:uniform(100))} end,
        fun() -> {esdb_gater_relay, gater_forge:relay(gater_forge:relay_hello(Sender, {node(), 5, 0, 5}))} end,
        fun() -> {esdb_gater_relay, gater_forge:relay(gater_forge:relay_secret(<<"forged">>))} end,
        fun() -> {esdb_gater_relay, rand:bytes(rand:uniform(100))} end]),
    Say().

%% Asked for now and then.
status(Gateway) ->
    case get(Gateway) of
        {Status, Left} when Left > 0 -> put(Gateway, {Status, Left - 1}), Status;
        Before ->
            Status = try gen_server:call({esdb_gater_cluster, Gateway}, status, ?CALL_MS) of
                {ok, Found} -> Found
            catch
                exit:_ -> case Before of {Old, _} -> Old; undefined -> #{} end
            end,
            put(Gateway, {Status, 50}),
            Status
    end.

one_of(List) -> lists:nth(rand:uniform(length(List)), List).

pause() -> receive after ?PAUSE_MS -> ok end.
