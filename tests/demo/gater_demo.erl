%% @doc The main job of a gateway, told with real nodes and real values.
%%
%% Nothing here is staged: what is printed is what the nodes answered, and an answer that is not
%% the one the story needs ends the program with 1.
-module(gater_demo).

-include_lib("stdlib/include/assert.hrl").

-export([main/0]).

-define(REGISTRY, esdb_gater_worker_registry).
-define(SECRET, <<"a secret for the demo">>).
%% The bytes of a large message.
-define(LARGE, (20 bsl 20)).

%% @doc Tells the story and halts.
-spec main() -> no_return().
main() ->
    %% Accented names shall look like themselves.
    ok = io:setopts([{encoding, unicode}]),
    World = gater_harness:new(),
    Code = try
        story(World),
        say("~nAll of this happened as told.~n", []),
        0
    catch
        Class:Reason:Stack ->
            say("~nFAILED: ~p:~tp~n~tp~n", [Class, Reason, Stack]),
            1
    end,
    gater_harness:stop(World),
    halt(Code).

story(World) ->
    chapter("A gateway and two BEAM nodes, none of them with a library of ours"),
    Gateway = #{node := Gater, port := Port, os_pid := OsPid} = gater_harness:gateway(World, #{
        base => "gater", env => [{"ESDB_GATER_SECRET", binary_to_list(?SECRET)}]}),
    say("esdb-gater runs as process ~b: ready node=~s port=~b", [OsPid, Gater, Port]),
    [Anna, Ben] = Nodes = [gater_harness:node(World, #{name => gater_harness:unique(Name),
                                                       modules => [?MODULE]}) || Name <- ["anna", "ben"]],
    [begin
         {ok, _} = gater_harness:on(Beam, fun() -> application:ensure_all_started(crypto) end),
         {Pong, Hidden} = gater_harness:on(Beam, fun() -> {net_adm:ping(Gater), nodes(hidden)} end),
         ?assertEqual({pong, true}, {Pong, lists:member(Gater, Hidden)}),
         say("~s: net_adm:ping(~s) -> ~p, nodes(hidden) -> ~0tp", [Node, Gater, Pong, Hidden])
     end || Beam = #{node := Node} <- Nodes],

    chapter("Workers register on both nodes and are called"),
    Workers = [worker(Beam) || Beam <- [Anna, Ben, Anna]],
    [register(Beam, Gateway, Pid) || {Beam, Pid} <- lists:zip([Anna, Ben, Anna], Workers)],
    {ok, Found} = call(Ben, Gateway, ?REGISTRY, {get_workers, orders}),
    ?assertEqual([{node(Pid), Pid} || Pid <- Workers], Found),
    say("ben asks for the workers of orders: ~0tp", [Found]),
    [begin
         Answer = gater_harness:on(Ben, fun() -> gen_server:call(Pid, {append, N}) end),
         ?assertEqual({ok, {node(Pid), appended, N}}, Answer),
         say("ben calls ~p -> ~0tp", [Pid, Answer])
     end || {N, {_, Pid}} <- lists:enumerate(Found)],

    chapter("One is killed and gone from the list, without being asked"),
    [_, Victim, _] = Workers,
    true = gater_harness:on(Ben, fun() -> exit(Victim, kill) end),
    Left = Found -- [{node(Victim), Victim}],
    gater_harness:until(fun() ->
        call(Anna, Gateway, ?REGISTRY, {get_workers, orders}) =:= {ok, Left} end),
    say("exit(~p, kill); anna now finds ~0tp", [Victim, Left]),

    chapter("What one node publishes the other receives"),
    Subscriber = {_, Listener} = gater_harness:agent(Ben),
    Topic = <<"user.created">>,
    ok = call(Ben, Gateway, esdb_channel_events, {subscribe, Topic, Listener}),
    say("ben: {subscribe, ~0tp, ~p} -> ok", [Topic, Listener]),
    Event = #{id => 1, name => <<"Zoë"/utf8>>, roles => [admin], at => {2026, 11, 23}},
    ok = call(Anna, Gateway, esdb_channel_events, {publish, Topic, Event}),
    say("anna: {publish, ~0tp, ~0tp} -> ok", [Topic, Event]),
    [Received] = await(Subscriber, 1),
    ?assertEqual({channel_message, esdb_channel_events, Topic, Event}, Received),
    say("ben receives ~0tp", [Received]),

    chapter("Alerts are signed"),
    ok = call(Ben, Gateway, esdb_channel_alerts, {subscribe, <<"fire">>, Listener}),
    Alert = #{type => alert, level => critical},
    Signed = gater_harness:on(Anna, fun() -> sign(Alert, ?SECRET) end),
    say("anna signs with crypto:mac: ~0tp", [Signed]),
    tell(Anna, Gateway, "signed", Signed, ok),
    [_, Alarm] = await(Subscriber, 2),
    ?assertEqual({channel_message, esdb_channel_alerts, <<"fire">>, Signed}, Alarm),
    say("ben receives it", []),
    tell(Anna, Gateway, "unsigned", Alert, {error, signature_required}),
    tell(Anna, Gateway, "changed on the way", Signed#{level => low}, {error, invalid_signature}),
    Forged = gater_harness:on(Anna, fun() -> sign(Alert, <<"a guess">>) end),
    tell(Anna, Gateway, "signed with another secret", Forged, {error, invalid_signature}),

    overtaking(Anna, Ben, Gateway),

    chapter("A rate limit is reached"),
    Answers = gater_harness:on(Anna, fun() ->
        [gen_server:call({esdb_channel_diagnostics, Gater}, {publish, <<"cpu">>, N})
         || N <- lists:seq(1, 250)] end),
    {Accepted, Refused} = lists:partition(fun(Answer) -> Answer =:= ok end, Answers),
    ?assertEqual([{error, rate_limited}], lists:usort(Refused)),
    ?assert(length(Accepted) >= 100),
    say("esdb_channel_diagnostics takes 100 a second per topic: of 250 at once ~b were ok and ~b "
        "{error, rate_limited}", [length(Accepted), length(Refused)]),

    chapter("The gateway is killed and restarted"),
    gater_harness:signal(Gateway, "KILL"),
    Status = gater_harness:await_exit(World, Gateway),
    say("kill -KILL ~b; its exit code is ~b", [OsPid, Status]),
    Started = erlang:monotonic_time(millisecond),
    Again = #{os_pid := NewPid} = gater_harness:restart(World, Gateway),
    gater_harness:until(fun() ->
        gater_harness:on(Anna, fun() -> net_adm:ping(Gater) end) =:= pong
            andalso call(Anna, Again, ?REGISTRY, {get_workers, orders}) =:= {ok, Left} end),
    say("started again as process ~b; after ~b ms anna finds the same workers: ~0tp",
        [NewPid, erlang:monotonic_time(millisecond) - Started, Left]),
    {_, Survivor} = hd(Left),
    Last = gater_harness:on(Ben, fun() -> gen_server:call(Survivor, {append, 4}) end),
    ?assertEqual({ok, {node(Survivor), appended, 4}}, Last),
    say("ben calls ~p -> ~0tp", [Survivor, Last]),

    Tools = #{chapter => fun chapter/1, say => fun say/2},
    gater_shim_demo:story(World, Again, ?SECRET, Tools),
    gater_cluster_demo:story(World, Tools),

    chapter("SIGTERM drains and ends it"),
    gater_harness:signal(Again, "TERM"),
    ?assertEqual(0, gater_harness:await_exit(World, Again)),
    say("exit code 0", []).

overtaking(Anna, Ben, Gateway = #{node := Gater}) ->
    chapter("A critical message overtakes a large one"),
    Watcher = gater_harness:on(Ben, fun() -> spawn(fun() -> watch([]) end) end),
    [ok = call(Ben, Gateway, Channel, {subscribe, <<"race">>, Watcher})
     || Channel <- [esdb_channel_events, esdb_channel_alerts]],
    %% Ben reads nothing while both are published, so both wait at the gateway.
    gater_harness:signal(Ben, "STOP"),
    {Large, Critical} = gater_harness:on(Anna, fun() ->
        Start = erlang:system_time(microsecond),
        ok = gen_server:call({esdb_channel_events, Gater}, {publish, <<"race">>, <<0:(?LARGE * 8)>>}),
        Between = erlang:system_time(microsecond),
        ok = gen_server:call({esdb_channel_alerts, Gater},
                             {publish, <<"race">>, sign(#{type => alert}, ?SECRET)}),
        {Start, Between}
    end),
    gater_harness:signal(Ben, "CONT"),
    Seen = fun() ->
        gater_harness:on(Ben, fun() ->
            Watcher ! {seen, self()},
            receive {Watcher, Times} -> Times end
        end)
    end,
    gater_harness:until(fun() -> length(Seen()) =:= 2 end),
    [{esdb_channel_alerts, First}, {esdb_channel_events, Second}] = Seen(),
    ?assert(First =< Second),
    say("anna publishes ~b MiB on esdb_channel_events, and ~b ms later an alert; ben does not read",
        [?LARGE bsr 20, (Critical - Large) div 1000]),
    say("ben reads on: the alert is there ~b ms after it was published", [(First - Critical) div 1000]),
    say("the large message ~b ms after it was published, ~b ms behind the alert",
        [(Second - Large) div 1000, (Second - First) div 1000]).

%% Keeps when something came on which channel.
watch(Seen) ->
    receive
        {channel_message, Channel, _, _} -> watch([{Channel, erlang:system_time(microsecond)} | Seen]);
        {seen, From} -> From ! {self(), lists:reverse(Seen)}, watch(Seen)
    end.

tell(Beam, Gateway, How, Message, Expected) ->
    Answer = call(Beam, Gateway, esdb_channel_alerts, {publish, <<"fire">>, Message}),
    ?assertEqual(Expected, Answer, How),
    say("anna publishes one that is ~s -> ~0tp", [How, Answer]).

register(Beam = #{node := Node}, Gateway, Pid) ->
    Answer = call(Beam, Gateway, ?REGISTRY, {register, orders, Pid}),
    ?assertEqual(ok, Answer),
    say("~s: {register, orders, ~p} -> ~p", [Node, Pid, Answer]).

%% A process that answers `gen_server:call'.
worker(Beam) ->
    gater_harness:on(Beam, fun() ->
        spawn(fun Loop() ->
            receive {'$gen_call', From, {append, N}} ->
                gen_server:reply(From, {ok, {node(), appended, N}}),
                Loop()
            end
        end)
    end).

%% As docs/PROTOCOL.md says.
sign(Message, Secret) ->
    Stamped = Message#{signed_at => erlang:system_time(second)},
    Bytes = term_to_binary(lists:sort(maps:to_list(Stamped)), [deterministic, {minor_version, 2}]),
    Stamped#{signature => base64:encode(crypto:mac(hmac, sha256, Secret, Bytes))}.

await(Agent, Count) ->
    gater_harness:until(fun() -> length(gater_harness:messages(Agent)) >= Count end),
    gater_harness:messages(Agent).

call(Beam, Gateway, Name, Request) -> gater_harness:call(Beam, {Name, Gateway}, Request).

chapter(Title) -> io:format("~n~ts~n~s~n", [Title, lists:duplicate(string:length(Title), $-)]).

say(Format, Values) -> io:format("  " ++ Format ++ "~n", Values).
