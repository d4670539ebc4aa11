%% @doc Bytes no honest node sends. Each case ends with the same claim: the gateway runs on, its
%% memory is bounded, and a bystander's connection has noticed nothing.
-module(hostile_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_testcase/2,
         end_per_testcase/2]).
-export([a_wrong_cookie_is_refused_and_logged_with_the_peers_name/1,
         handshake_garbage_closes_its_connection/1, bad_names_are_refused/1,
         a_silent_handshake_is_closed_in_time/1, a_frame_over_the_limit_closes_at_once/1,
         a_truncated_frame_harms_nobody/1, ten_million_levels_harm_nobody/1,
         lengths_beyond_the_data_are_refused/1, terms_no_node_decodes_are_refused/1,
         broken_control_messages_are_refused/1, fragments_out_of_place_are_refused/1,
         unfinished_messages_are_bounded/1, ten_thousand_connections_opened_and_dropped/1,
         a_thousand_silent_connections_keep_nobody_out/1, mutated_frames_never_harm/1,
         a_subscriber_that_stops_reading_costs_only_itself/1,
         a_million_topics_are_bounded/1, lists_without_elements_harm_nobody/1,
         what_comes_with_a_message_is_not_kept/1]).

-define(REGISTRY, esdb_gater_worker_registry).
-define(EVENTS, esdb_channel_events).
-define(SYSTEM, esdb_channel_system).
%% Two of the longest messages (64 MiB), one lane filled (64 MiB), and what an allocator keeps.
-define(MEMORY_BOUND, (320 bsl 20)).

suite() -> [{timetrap, {minutes, 4}}].

all() ->
    [a_wrong_cookie_is_refused_and_logged_with_the_peers_name,
     handshake_garbage_closes_its_connection, bad_names_are_refused,
     a_silent_handshake_is_closed_in_time, a_frame_over_the_limit_closes_at_once,
     a_truncated_frame_harms_nobody, ten_million_levels_harm_nobody,
     lengths_beyond_the_data_are_refused, terms_no_node_decodes_are_refused,
     broken_control_messages_are_refused, fragments_out_of_place_are_refused,
     unfinished_messages_are_bounded, ten_thousand_connections_opened_and_dropped,
     a_thousand_silent_connections_keep_nobody_out, mutated_frames_never_harm,
     a_subscriber_that_stops_reading_costs_only_itself, a_million_topics_are_bounded,
     lists_without_elements_harm_nobody, what_comes_with_a_message_is_not_kept].

init_per_suite(Config) ->
    World = gater_harness:new(),
    Gateway = #{node := Gater} = gater_harness:gateway(World),
    Beam = gater_harness:node(World, #{modules => [?MODULE]}),
    Bystander = {_, Pid} = gater_harness:agent(Beam),
    %% It hears of any loss of the connection, however short.
    gater_harness:in(Bystander, fun() ->
        pong = net_adm:ping(Gater),
        true = monitor_node(Gater, true),
        ok = gen_server:call({?EVENTS, Gater}, {subscribe, <<"bystander">>, Pid}),
        ok = gen_server:call({?REGISTRY, Gater}, {register, bystander, Pid})
    end),
    [{world, World}, {gateway, Gateway}, {beam, Beam}, {bystander, Bystander} | Config].

end_per_suite(Config) ->
    gater_harness:stop(value(world, Config)).

init_per_testcase(_Case, Config) -> Config.

end_per_testcase(_Case, Config) ->
    try unharmed(Config) of
        ok -> ok
    catch
        _:Reason -> {fail, Reason}
    end.

%% The claim all cases end with.
unharmed(Config) ->
    Gateway = #{node := Gater} = value(gateway, Config),
    {Beam, Pid} = Bystander = value(bystander, Config),
    ?assert(gater_harness:alive(Gateway)),
    Nonce = erlang:unique_integer(),
    ?assertEqual({ok, [{node(Pid), Pid}]},
        gater_harness:call(Beam, {?REGISTRY, Gateway}, {get_workers, bystander})),
    ok = gater_harness:call(Beam, {?EVENTS, Gateway}, {publish, <<"bystander">>, Nonce}),
    Wanted = {channel_message, ?EVENTS, <<"bystander">>, Nonce},
    gater_harness:until(fun() -> lists:member(Wanted, gater_harness:messages(Bystander)) end),
    ?assertEqual([], [Lost || Lost = {nodedown, Node} <- gater_harness:messages(Bystander), Node =:= Gater]),
    Bytes = gater_harness:resident_bytes(Gateway),
    ct:log("the gateway uses ~b KiB", [Bytes div 1024]),
    ?assert(Bytes < ?MEMORY_BOUND, Bytes),
    ?assertEqual(nomatch, binary:match(gater_harness:log(Gateway), <<"panicked">>)),
    ok.

a_wrong_cookie_is_refused_and_logged_with_the_peers_name(Config) ->
    Gateway = #{port := Port, node := Gater} = value(gateway, Config),
    Name = gater_harness:unique("intruder") ++ "@127.0.0.1",
    ?assertMatch({error, _}, gater_wire:connect(Port, Name, "not the cookie")),
    gater_harness:until(fun() ->
        binary:match(gater_harness:log(Gateway), list_to_binary(Name)) =/= nomatch end),
    [Line | _] = [Line || Line <- binary:split(gater_harness:log(Gateway), <<"\n">>, [global]),
                          binary:match(Line, list_to_binary(Name)) =/= nomatch],
    ?assertMatch({_, _}, binary:match(Line, <<"cookie">>), Line),
    %% A real node with the wrong one.
    ?assertEqual(pang, gater_harness:on(value(beam, Config), fun() ->
        {ok, Peer, _} = peer:start(#{name => peer:random_name(), host => "127.0.0.1", longnames => true,
            connection => standard_io, args => ["-setcookie", "wrong"]}),
        Answer = peer:call(Peer, net_adm, ping, [Gater]),
        peer:stop(Peer),
        Answer
    end)).

handshake_garbage_closes_its_connection(Config) ->
    #{port := Port} = value(gateway, Config),
    Flags = gater_wire:flags(),
    Name = <<"garbage@127.0.0.1">>,
    [begin
         Socket = gater_wire:open(Port),
         _ = gater_wire:send(Socket, Garbage),
         ?assertEqual(ok, gater_wire:await_close(Socket), Garbage)
     end || Garbage <- [
         <<"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n">>, <<0, 0>>, <<0, 1, 0>>, <<255, 255>>,
         <<0, 7, "n", 0, 5, 0, 0, 0, 0>>, <<22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3>>,
         <<(15 + 100):16, $N, Flags:64, 1:32, 5:16, 0:800>>,
         <<(15 + byte_size(Name)):16, $N, Flags:64, 1:32, 60000:16, Name/binary>>,
         <<(15 + byte_size(Name)):16, $N, 0:64, 1:32, (byte_size(Name)):16, Name/binary>>,
         <<(15 + byte_size(Name)):16, $N, -1:64, 1:32, (byte_size(Name)):16, Name/binary, "trailing"/utf8>>,
         rand:bytes(100), rand:bytes(70000)]],
    %% Garbage after a good start.
    [begin
         Socket = gater_wire:open(Port),
         gater_wire:name_message(Socket, binary_to_list(Name), Flags, 5),
         {ok, <<"sok">>} = gater_wire:read(Socket),
         {ok, <<$N, _/binary>>} = gater_wire:read(Socket),
         _ = gater_wire:send(Socket, Reply),
         ?assertEqual(ok, gater_wire:await_close(Socket), Reply)
     end || Reply <- [<<0, 21, "r", 0:160>>, <<0, 3, "r", 0:16>>, <<0, 0>>, <<0, 5, "strue">>,
                      <<0, 17, "a", 0:128>>, rand:bytes(200)]].

bad_names_are_refused(Config) ->
    #{port := Port, node := Gater} = value(gateway, Config),
    Cookie = gater_harness:cookie(value(world, Config)),
    [?assertMatch({error, _}, gater_wire:connect(Port, Name, Cookie), Name)
     || Name <- ["", "@", "nohost", "a@", "@host", "two@at@signs", [255, 254, $@, $h],
                 lists:duplicate(300, $a) ++ "@h", "new\nline@h", atom_to_list(Gater)]].

a_silent_handshake_is_closed_in_time(Config) ->
    #{port := Port} = value(gateway, Config),
    Silent = gater_wire:open(Port),
    Half = gater_wire:open(Port),
    ok = gater_wire:send(Half, <<0>>),
    Waiting = gater_wire:open(Port),
    gater_wire:name_message(Waiting, "waiting@127.0.0.1", gater_wire:flags(), 5),
    Before = erlang:monotonic_time(millisecond),
    [?assertEqual(ok, gater_wire:await_close(Socket)) || Socket <- [Silent, Half, Waiting]],
    %% 5 s are promised; OTP gives 7.
    ?assert(erlang:monotonic_time(millisecond) - Before < 15000).

a_frame_over_the_limit_closes_at_once(Config) ->
    [begin
         Socket = connect(Config),
         ok = gater_wire:send(Socket, <<Length:32, 112>>),
         ?assertEqual(ok, gater_wire:await_close(Socket), Length)
     end || Length <- [(64 bsl 20) + 1, 1 bsl 31, (1 bsl 32) - 1]].

a_truncated_frame_harms_nobody(Config) ->
    Before = gater_harness:resident_bytes(value(gateway, Config)),
    %% Allowed lengths, of which little or nothing comes.
    Sockets = [begin
        Socket = connect(Config),
        ok = gater_wire:send(Socket, [<<(64 bsl 20):32, 112>>, Part]),
        Socket
    end || Part <- [<<>>, <<131>>, <<131, 104, 4, 97, 6>> | lists:duplicate(20, <<131, 104>>)]],
    %% Nothing is set aside for what is only claimed: 23 times 64 MiB.
    ok = unharmed(Config),
    ?assert(gater_harness:resident_bytes(value(gateway, Config)) - Before < 64 bsl 20),
    [gen_tcp:close(Socket) || Socket <- Sockets],
    %% Frames that end in the middle of a term.
    Whole = iolist_to_binary(gater_wire:frame(
        term_to_binary({6, pid_of(connect_name()), '', ?REGISTRY}), term_to_binary({hello, "world", 1.5}))),
    <<_:32, Body/binary>> = Whole,
    [begin
         Socket = connect(Config),
         Cut = binary:part(Body, 0, Size),
         ok = gater_wire:send(Socket, [<<Size:32>>, Cut]),
         ?assertEqual(ok, gater_wire:await_close(Socket), Size)
     end || Size <- lists:seq(1, byte_size(Body) - 1, 3)].

ten_million_levels_harm_nobody(Config) ->
    Levels = 10000000,
    Nested = fun(Open, Close) -> [131, binary:copy(Open, Levels), 106, binary:copy(Close, Levels)] end,
    %% A level that something follows must be remembered: refused.
    [begin
         Socket = connect(Config),
         _ = to_name(Socket, ?EVENTS, Nested(Open, Close)),
         ?assertEqual(ok, gater_wire:await_close(Socket), {Open, Close})
     end || {Open, Close} <- [{<<108, 1:32>>, <<>>}, {<<104, 2>>, <<97, 1>>}]],
    %% Where nothing follows, a level costs nothing and any node decodes it: answered.
    Name = connect_name(),
    Socket = connect(Config, Name, gater_wire:flags()),
    Pid = pid_of(Name),
    Call = [131, 104, 3, <<119, 9, "$gen_call">>, 104, 2, term_to_binary_bare(Pid), 97, 1],
    [_ = gater_wire:send(Socket, {6, Pid, '', ?EVENTS}, [Call, tl(Nested(<<104, 1>>, <<>>))]) || _ <- [1, 2]],
    ok = unharmed(Config),
    ?assertEqual({ok, []}, gater_wire:call(Socket, Pid, ?REGISTRY, {get_workers, none})),
    gen_tcp:close(Socket),
    %% As the control message itself.
    Other = connect(Config),
    _ = gater_wire:send(Other, gater_wire:frame(Nested(<<104, 1>>, <<>>), <<>>)),
    ?assertEqual(ok, gater_wire:await_close(Other)).

lengths_beyond_the_data_are_refused(Config) ->
    Huge = 16#ffffffff,
    [begin
         Socket = connect(Config),
         _ = to_name(Socket, ?EVENTS, [131, Term]),
         ?assertEqual(ok, gater_wire:await_close(Socket), Term)
     end || Term <- [<<105, Huge:32>>, <<108, Huge:32>>, <<109, Huge:32, 1>>, <<116, Huge:32>>,
                     <<111, Huge:32, 0>>, <<77, Huge:32, 3>>, <<107, 65535:16>>, <<100, 65535:16>>,
                     <<118, 65535:16>>, <<119, 255>>, <<90, 65535:16>>, <<112, Huge:32>>,
                     <<104, 255>>, <<110, 255, 0>>, <<>>]].

terms_no_node_decodes_are_refused(Config) ->
    Zip = zlib:compress(binary:copy(<<106>>, 1000)),
    [begin
         Socket = connect(Config),
         _ = to_name(Socket, ?EVENTS, [131, Term]),
         ?assertEqual(ok, gater_wire:await_close(Socket), Term)
     end || Term <- [<<80, (1 bsl 32 - 1):32, Zip/binary>>, <<131, 106>>, <<0>>, <<82, 0>>, <<121, 1, 2>>,
                     <<118, 1:16, 255>>, <<119, 2, 195, 40>>, <<70, 127, 240, 0, 0, 0, 0, 0, 0>>,
                     <<70, 255, 248, 0, 0, 0, 0, 0, 1>>, <<77, 1:32, 9, 1>>, <<77, 1:32, 0, 1>>,
                     <<116, 2:32, 97, 1, 106, 97, 1, 106>>, <<88, 97, 1, 1:32, 1:32, 1:32>>,
                     <<118, 256:16, (binary:copy(<<"a">>, 256))/binary>>]].

broken_control_messages_are_refused(Config) ->
    Pid = pid_of(connect_name()),
    [begin
         Socket = connect(Config),
         _ = gater_wire:send(Socket, gater_wire:frame(Control, Payload)),
         ?assertEqual(ok, gater_wire:await_close(Socket), Control)
     end || {Control, Payload} <- [
         {<<>>, <<>>}, {<<131>>, <<>>}, {term_to_binary(hello), <<>>}, {term_to_binary([1]), <<>>},
         {term_to_binary({}), <<>>}, {term_to_binary({6}), term_to_binary(x)},
         {term_to_binary({6, 1, 2, 3}), term_to_binary(x)},
         {term_to_binary({6, Pid, '', ?EVENTS}), <<>>},
         {term_to_binary({19, Pid, ?EVENTS, not_a_reference}), <<>>},
         {term_to_binary({1, x, y}), <<>>}, {term_to_binary({"six", Pid, '', ?EVENTS}), <<>>}]],
    %% Legal, and of no interest: ignored.
    Socket = connect(Config),
    [ok = gater_wire:send(Socket, Control, term_to_binary(whatever))
     || Control <- [{2, '', Pid}, {22, Pid, Pid}, {6, Pid, '', no_such_name}, {6, Pid, '', ?EVENTS},
                    {33, Pid, make_ref()}]],
    ?assertEqual({ok, []}, gater_wire:call(Socket, Pid, ?REGISTRY, {get_workers, none})),
    gen_tcp:close(Socket).

fragments_out_of_place_are_refused(Config) ->
    Control = fun(Name) -> term_to_binary_bare({6, pid_of(Name), '', ?EVENTS}) end,
    First = fun(Id) -> fun(Name) -> gater_wire:fragment(69, 1, Id, [Control(Name), <<104, 2>>]) end end,
    Next = fun(Sequence, Id) -> fun(_) -> gater_wire:fragment(70, Sequence, Id, <<97, 1>>) end end,
    [begin
         {Socket, Name} = connect_fragments(Config),
         [_ = gater_wire:send(Socket, Frame(Name)) || Frame <- Frames],
         ?assertEqual(ok, gater_wire:await_close(Socket), What)
     end || {What, Frames} <- [
         {id_zero, [First(0)]}, {next_of_nothing, [Next(9, 1)]}, {gap, [First(3), Next(1, 1)]},
         {repeated, [First(3), Next(1, 2), Next(1, 2)]}, {upwards, [First(2), Next(1, 3)]},
         {begun_twice, [First(3), First(3)]}, {incomplete, [First(2), Next(1, 1)]},
         {short_header, [fun(_) -> <<4:32, 131, 69, 0, 0>> end]},
         {no_header, [fun(_) -> <<2:32, 131, 70>> end]},
         {not_in_this_world, [First(1 bsl 32)]}, {not_in_any, [First((1 bsl 64) - 1)]}]].

unfinished_messages_are_bounded(Config) ->
    {Socket, Name} = connect_fragments(Config),
    Control = term_to_binary_bare({6, pid_of(Name), '', ?EVENTS}),
    Megabyte = [Control, <<109, (60 bsl 20):32>>, binary:copy(<<0>>, 1 bsl 20)],
    %% A gibibyte in a thousand messages of which none ends.
    _ = lists:takewhile(fun(Sequence) ->
        gater_wire:send(Socket, gater_wire:fragment(69, Sequence, 60, Megabyte)) =:= ok
    end, lists:seq(1, 1024)),
    ?assertEqual(ok, gater_wire:await_close(Socket)),
    %% One message that grows beyond what a message may be.
    {Other, OtherName} = connect_fragments(Config),
    Begin = [term_to_binary_bare({6, pid_of(OtherName), '', ?EVENTS}), <<109, (1 bsl 31):32>>],
    ok = gater_wire:send(Other, gater_wire:fragment(69, 1, 1000, Begin)),
    _ = lists:takewhile(fun(Id) ->
        gater_wire:send(Other, gater_wire:fragment(70, 1, Id, binary:copy(<<0>>, 1 bsl 20))) =:= ok
    end, lists:seq(999, 800, -1)),
    ?assertEqual(ok, gater_wire:await_close(Other)),
    %% Millions of empty ones, of which each costs the sender a few bytes.
    {Many, ManyName} = connect_fragments(Config),
    Start = [term_to_binary_bare({6, pid_of(ManyName), '', ?EVENTS})],
    _ = lists:takewhile(fun(Batch) ->
        gater_wire:send(Many, [gater_wire:fragment(69, Batch * 1000 + N, 2, Start)
                               || N <- lists:seq(1, 1000)]) =:= ok
    end, lists:seq(1, 1000)),
    ok = unharmed(Config),
    gen_tcp:close(Many).

ten_thousand_connections_opened_and_dropped(Config) ->
    Gateway = #{port := Port, os_pid := OsPid} = value(gateway, Config),
    Before = open_files(OsPid),
    %% Reset on close, so that the ports can be used again.
    Connect = fun() ->
        {ok, Socket} = gen_tcp:connect({127, 0, 0, 1}, Port,
            [binary, {active, false}, {linger, {true, 0}}], 30000),
        Socket
    end,
    Round = fun(N) ->
        Socket = Connect(),
        case N rem 3 of
            0 -> ok;
            1 -> gen_tcp:send(Socket, <<0, 30, "N">>);
            2 -> gater_wire:name_message(Socket, "flood@127.0.0.1", gater_wire:flags(), N)
        end,
        gen_tcp:close(Socket)
    end,
    Workers = [spawn_monitor(fun() -> [Round(N) || N <- lists:seq(1, 2500)] end)
               || _ <- [1, 2, 3, 4]],
    [receive {'DOWN', Monitor, _, _, Reason} -> ?assertEqual(normal, Reason) end
     || {_, Monitor} <- Workers],
    gater_harness:until(fun() -> open_files(OsPid) =< Before + 5 end),
    ?assert(gater_harness:alive(Gateway)).

a_thousand_silent_connections_keep_nobody_out(Config) ->
    World = value(world, Config),
    #{port := Port, node := Gater} = value(gateway, Config),
    Silent = [gater_wire:open(Port) || _ <- lists:seq(1, 1000)],
    Newcomer = gater_harness:node(World, #{modules => [?MODULE]}),
    ?assertEqual(pong, gater_harness:on(Newcomer, fun() -> net_adm:ping(Gater) end)),
    ok = unharmed(Config),
    [gen_tcp:close(Socket) || Socket <- Silent],
    gater_harness:kill_node(World, Newcomer).

mutated_frames_never_harm(Config) ->
    Seed = erlang:unique_integer([positive]),
    ct:log("seed ~p", [Seed]),
    rand:seed(exsss, Seed),
    Pid = pid_of(connect_name()),
    Reference = make_ref(),
    Frames = [{{6, Pid, '', ?EVENTS}, {'$gen_call', {Pid, [alias | Reference]}, {subscribe, <<"t">>, Pid}}},
              {{6, Pid, '', ?REGISTRY}, {'$gen_call', {Pid, Reference}, {register, store, Pid}}},
              {{6, Pid, '', esdb_channel_alerts},
               {'$gen_cast', {publish, <<"t">>, #{signed_at => 1, signature => <<"x">>, a => [1.5, {b}]}}}},
              {{6, Pid, '', esdb_gater_session}, {'$gen_call', {Pid, Reference}, {attach, 1, Pid, #{}}}},
              {{19, Pid, ?EVENTS, Reference}, x}, {{1, Pid, Pid}, x}, {{35, 5, Pid, Pid}, x},
              {{29, Reference, Pid, Pid, {m, f, 1}, [monitor]}, [a, b]}],
    Mutate = fun Mutate(Bytes, 0) -> Bytes;
                 Mutate(Bytes, Times) ->
        At = rand:uniform(byte_size(Bytes)) - 1,
        <<Before:At/binary, Byte, After/binary>> = Bytes,
        Mutate(case rand:uniform(4) of
            1 -> <<Before/binary, (rand:uniform(256) - 1), After/binary>>;
            2 -> <<Before/binary, (Byte bxor (1 bsl (rand:uniform(8) - 1))), After/binary>>;
            3 -> <<Before/binary, After/binary, 0>>;
            4 -> <<Before/binary, (rand:uniform(256) - 1), Byte, After/binary>>
        end, Times - 1)
    end,
    [begin
         Socket = connect(Config),
         _ = lists:takewhile(fun(_) ->
             {Control, Payload} = lists:nth(rand:uniform(length(Frames)), Frames),
             Body = iolist_to_binary([term_to_binary(Control), term_to_binary(Payload)]),
             gater_wire:send(Socket, gater_wire:frame(Mutate(Body, rand:uniform(3)), <<>>)) =:= ok
         end, lists:seq(1, 20)),
         gen_tcp:close(Socket)
     end || _ <- lists:seq(1, 300)],
    ok.

a_subscriber_that_stops_reading_costs_only_itself(Config) ->
    Gateway = #{node := Gater} = value(gateway, Config),
    Reader = {Beam, ReaderPid} = gater_harness:agent(value(beam, Config)),
    [begin
         Name = connect_name(),
         Stuck = gater_wire:pid(Name, 1, 77),
         {ok, Socket} = gater_wire:connect(maps:get(port, Gateway), Name,
             gater_harness:cookie(value(world, Config)), #{creation => 77}),
         ok = gater_wire:call(Socket, Stuck, Channel, {subscribe, <<"flood">>, Stuck}),
         ok = gater_harness:call(Beam, {Channel, Gateway}, {subscribe, <<"flood">>, ReaderPid}),
         %% 150 MB: more than any lane holds.
         Count = 2400,
         ok = gater_harness:on(Beam, fun() ->
             Block = binary:copy(<<"x">>, 65000),
             [ok = gen_server:call({Channel, Gater}, {publish, <<"flood">>, {N, Block}}, 60000)
              || N <- lists:seq(1, Count)],
             ok
         end),
         ok = unharmed(Config),
         gater_harness:until(fun() -> gater_harness:on(Beam, fun() ->
             length(gater_agent:messages(ReaderPid)) >= Count end) end),
         Numbers = gater_harness:on(Beam, fun() ->
             [N || {channel_message, _, <<"flood">>, {N, _}} <- gater_agent:flush(ReaderPid)] end),
         ?assertEqual(lists:seq(1, Count), Numbers),
         ok = gater_harness:call(Beam, {Channel, Gateway}, {unsubscribe, <<"flood">>, ReaderPid}),
         gen_tcp:close(Socket)
     end || Channel <- [?SYSTEM, ?EVENTS, esdb_channel_audit]],
    ?assertMatch({_, ReaderPid}, Reader).

a_million_topics_are_bounded(Config) ->
    #{node := Gater} = value(gateway, Config),
    %% Rated and replaying: a topic each, remembered or forgotten, but not for ever.
    ok = gater_harness:on(value(beam, Config), fun() ->
        [begin
             gen_server:cast({esdb_channel_health, Gater}, {publish, integer_to_binary(N), N}),
             gen_server:cast({esdb_channel_metrics, Gater}, {publish, integer_to_binary(N), N}),
             gen_server:cast({esdb_channel_events, Gater}, {publish, integer_to_binary(N), N})
         end || N <- lists:seq(1, 1000000)],
        gen_server:call({esdb_channel_events, Gater}, {publish, <<"end">>, 1}, 120000)
    end).

%% Each is the tail of the one before. Nobody has the secret, and need not.
lists_without_elements_harm_nobody(Config) ->
    Now = os:system_time(second),
    Chain = [binary:copy(<<108, 0:32>>, 1000000), <<97, 1>>],
    Pair = fun(Key, Value) -> [term_to_binary_bare(Key), Value] end,
    Signed = [<<116, 3:32>>, Pair(signed_at, term_to_binary_bare(Now)),
              Pair(signature, term_to_binary_bare(<<"forged">>))],
    AsValue = [Signed, Pair(x, Chain)],
    AsKey = [Signed, Chain, <<106>>],
    Name = connect_name(),
    Socket = connect(Config, Name, gater_wire:flags()),
    Pid = pid_of(Name),
    [begin
         Tag = make_ref(),
         Call = [<<131, 104, 3>>, term_to_binary_bare('$gen_call'), term_to_binary_bare({Pid, Tag}),
                 <<104, 3>>, term_to_binary_bare(publish), term_to_binary_bare(<<"t">>), Message],
         ok = gater_wire:send(Socket, {6, Pid, '', esdb_channel_alerts}, Call),
         ?assertMatch({_, {Tag, {error, invalid_signature}}}, gater_wire:terms(Socket, 20000))
     end || Message <- [AsValue, AsKey]],
    gen_tcp:close(Socket).

%% A message that is kept, of a frame that is much longer: 640 MiB of them.
what_comes_with_a_message_is_not_kept(Config) ->
    Socket = connect(Config),
    More = binary:copy(<<0>>, 16 bsl 20),
    Block = binary:copy(<<"x">>, 33000),
    [ok = to_name(Socket, esdb_channel_health,
                  [term_to_binary({'$gen_cast', {publish, <<"kept", N:32>>, Block}}), More])
     || N <- lists:seq(1, 40)],
    %% The next frame is read into the buffer of the long one.
    [ok = gater_wire:send(Socket, [
         gater_wire:frame(term_to_binary({6, pid_of("hostile@127.0.0.1"), '', no_such_name}), [<<131, 106>>, More]),
         gater_wire:frame(term_to_binary({6, pid_of("hostile@127.0.0.1"), '', esdb_channel_health}),
                          term_to_binary({'$gen_cast', {publish, <<"next", N:32>>, Block}}))])
     || N <- lists:seq(1, 40)],
    Subscriber = {_, Pid} = gater_harness:agent(value(beam, Config)),
    [gater_harness:until(fun() ->
         ok = gater_harness:call(value(beam, Config), {esdb_channel_health, value(gateway, Config)},
                                 {subscribe, Topic, Pid}),
         lists:member({channel_message, esdb_channel_health, Topic, Block}, gater_harness:messages(Subscriber))
     end) || Topic <- [<<"kept", 40:32>>, <<"next", 40:32>>]],
    gen_tcp:close(Socket).

open_files(OsPid) ->
    {ok, Files} = file:list_dir("/proc/" ++ integer_to_list(OsPid) ++ "/fd"),
    length(Files).

term_to_binary_bare(Term) ->
    <<131, Bare/binary>> = term_to_binary(Term),
    Bare.

to_name(Socket, Name, Payload) ->
    gater_wire:send(Socket, {6, pid_of("hostile@127.0.0.1"), '', Name}, Payload).

pid_of(Name) -> gater_wire:pid(Name, 1, 77).

connect_name() -> gater_harness:unique("hostile") ++ "@127.0.0.1".

connect(Config) -> connect(Config, connect_name(), gater_wire:flags()).

connect_fragments(Config) ->
    Name = connect_name(),
    {connect(Config, Name, gater_wire:fragment_flags()), Name}.

connect(Config, Name, Flags) ->
    #{port := Port} = value(gateway, Config),
    {ok, Socket} = gater_wire:connect(Port, Name, gater_harness:cookie(value(world, Config)),
        #{flags => Flags, creation => 77}),
    Socket.

value(Key, Config) -> proplists:get_value(Key, Config).
