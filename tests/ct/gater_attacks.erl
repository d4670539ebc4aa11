%% @doc Peers with the cookie that ask a gateway for more than their share: what `fairness_SUITE' and
%% the benchmark `attacks' do to a gateway while others use it.
%%
%% What an attack needs (stores, workers, subscribers) is made first. Then it goes on until it is
%% stopped: whenever the gateway closes its connection, it comes back.
-module(gater_attacks).

-export([kinds/0, start/4, stop/1, rounds/1]).
-export_type([target/0, kind/0, attack/0]).

%% The port of the gateway and its cookie.
-type target() :: {inet:port_number(), string()}.
-type kind() :: list_stores | get_local_workers | get_subscribers | publish | signed_maps
    | subscriptions.
-opaque attack() :: {pid(), counters:counters_ref()}.

-define(REGISTRY, esdb_gater_worker_registry).
-define(SESSION, esdb_gater_session).
-define(EVENTS, esdb_channel_events).
-define(ALERTS, esdb_channel_alerts).
-define(TOPIC, <<"attacked">>).
-define(CREATION, 7).
%% Connections that send signed maps.
-define(SENDERS, 8).

%% @doc All attacks.
-spec kinds() -> [kind()].
kinds() -> [list_stores, get_local_workers, get_subscribers, publish, signed_maps, subscriptions].

%% @doc Prepares an attack with `Size' stores, workers, subscribers or keys, and returns when it is
%% under way. It ends with the calling process.
-spec start(kind(), target(), string(), pos_integer()) -> attack().
start(Kind, Target, Prefix, Size) ->
    Rounds = counters:new(1, []),
    Self = self(),
    {Pid, Monitor} = spawn_opt(fun() ->
        Attack = prepare(Kind, Target, Prefix, Size),
        Again = fun Again() -> Attack(), counters:add(Rounds, 1, 1), Again() end,
        Self ! {self(), prepared},
        Again()
    end, [link, monitor]),
    receive
        {Pid, prepared} -> demonitor(Monitor, [flush]);
        {'DOWN', Monitor, _, _, Reason} -> error({not_prepared, Reason})
    end,
    {Pid, Rounds}.

%% @doc Ends an attack.
-spec stop(attack()) -> ok.
stop({Pid, _}) ->
    unlink(Pid),
    Monitor = monitor(process, Pid),
    exit(Pid, kill),
    receive {'DOWN', Monitor, _, _, _} -> ok end.

%% @doc How often it was begun anew: one that is never begun anew is stuck at its first.
-spec rounds(attack()) -> non_neg_integer().
rounds({_, Rounds}) -> counters:get(Rounds, 1).

%% Returns the attack itself, once.
prepare(list_stores, Target, Prefix, Size) ->
    Holder = connect(Target, Prefix ++ "holder"),
    Pid = process(Holder, 1),
    ok = many(Holder, Size, fun(N) -> {?REGISTRY, {register, store(Prefix, N), Pid}} end),
    ok = await(Holder, registrations, Size),
    fun() -> flood(Target, Prefix, 300, fun(_) -> {?REGISTRY, list_stores} end) end;
prepare(get_local_workers, Target, Prefix, Size) ->
    Holder = connect(Target, Prefix ++ "holder"),
    Store = store(Prefix, 0),
    ok = many(Holder, Size, fun(N) -> {?REGISTRY, {register, Store, process(Holder, N)}} end),
    ok = await(Holder, registrations, Size),
    fun() -> flood(Target, Prefix, 5000, fun(_) -> {?REGISTRY, {get_local_workers, Store}} end) end;
prepare(get_subscribers, Target, Prefix, Size) ->
    ok = subscribers(Target, Prefix, Size),
    fun() -> flood(Target, Prefix, 500, fun(_) -> {?EVENTS, {get_subscribers, ?TOPIC}} end) end;
prepare(publish, Target, Prefix, Size) ->
    ok = subscribers(Target, Prefix, Size),
    fun() -> flood(Target, Prefix, 100000, fun(N) -> {?EVENTS, {publish, ?TOPIC, N}} end) end;
prepare(signed_maps, Target, Prefix, Size) ->
    Map = maps:from_list([{N, N} || N <- lists:seq(1, Size)]),
    Signed = Map#{signed_at => os:system_time(second), signature => base64:encode(<<0:256>>)},
    fun() ->
        Flood = fun() -> flood(Target, Prefix, 10, fun(_) -> {?ALERTS, {publish, <<"t">>, Signed}} end) end,
        Senders = [spawn_opt(Flood, [link, monitor]) || _ <- lists:seq(1, ?SENDERS)],
        [receive {'DOWN', Monitor, _, _, _} -> ok end || {_, Monitor} <- Senders]
    end;
prepare(subscriptions, Target, Prefix, Size) ->
    fun() -> ok = subscribers(Target, Prefix, Size) end.

%% A node whose processes are subscribed comes (back) and goes.
subscribers(Target, Prefix, Size) ->
    put(creation, creation() + 1),
    case get(holder) of
        {Earlier, _} -> gen_tcp:close(Earlier);
        undefined -> ok
    end,
    Holder = connect(Target, Prefix ++ "holder", creation()),
    put(holder, Holder),
    ok = many(Holder, Size, fun(N) ->
        {?EVENTS, {subscribe, ?TOPIC, process(Holder, N)}}
    end),
    await_sync(Holder).

creation() ->
    case get(creation) of undefined -> ?CREATION; Creation -> Creation end.

%% Sends so many requests and takes no answer before all are sent, then all there are until the
%% gateway has answered the last one or closed the connection.
flood(Target, Prefix, Count, Request) ->
    {Socket, _} = Peer = connect(Target, unique(Prefix)),
    ok = inet:setopts(Socket, [{send_timeout, 10000}]),
    Frames = [frame(Peer, Request(N)) || N <- lists:seq(1, min(Count, 1000))],
    _ = lists:takewhile(fun(_) -> gen_tcp:send(Socket, Frames) =:= ok end,
                        lists:seq(1, max(1, Count div 1000))),
    _ = gen_tcp:send(Socket, frame(Peer, {?SESSION, ping})),
    drain(Socket),
    gen_tcp:close(Socket).

%% Until nothing comes for a while.
drain(Socket) ->
    case gen_tcp:recv(Socket, 0, 500) of
        {ok, _} -> drain(Socket);
        {error, _} -> ok
    end.

unique(Prefix) -> Prefix ++ integer_to_list(erlang:unique_integer([positive])).

connect(Target, Name) -> connect(Target, Name, ?CREATION).

connect({Port, Cookie} = Target, Name, Creation) ->
    Node = Name ++ "@127.0.0.1",
    case gater_wire:connect(Port, Node, Cookie, #{creation => Creation}) of
        {ok, Socket} -> {Socket, {Node, Creation}};
        %% The earlier connection of that name is being closed.
        {error, _} -> timer:sleep(50), connect(Target, Name, Creation)
    end.

process({_, {Node, Creation}}, N) -> gater_wire:pid(Node, N, Creation).

store(Prefix, N) -> list_to_atom(Prefix ++ "_" ++ integer_to_list(N)).

frame(Peer, {Name, Request}) ->
    From = process(Peer, 1),
    gater_wire:frame(term_to_binary({6, From, '', Name}),
                     term_to_binary({'$gen_call', {From, make_ref()}, Request})).

%% Makes so many requests without waiting for each.
many({Socket, _} = Peer, Size, Request) ->
    lists:foreach(fun(From) ->
        To = min(From + 999, Size),
        ok = gen_tcp:send(Socket, [cast(Peer, Request(N)) || N <- lists:seq(From, To)]),
        await_sync(Peer)
    end, lists:seq(1, Size, 1000)).

cast(Peer, {Name, Request}) ->
    gater_wire:frame(term_to_binary({6, process(Peer, 1), '', Name}),
                     term_to_binary({'$gen_cast', Request})).

await_sync({Socket, _} = Peer) ->
    ok = gater_wire:call(Socket, process(Peer, 1), ?SESSION, ping),
    ok.

await({Socket, _} = Peer, Key, Least) ->
    case gater_wire:call(Socket, process(Peer, 1), ?SESSION, info) of
        #{Key := Count} when Count >= Least -> ok;
        #{} -> timer:sleep(50), await(Peer, Key, Least)
    end.
