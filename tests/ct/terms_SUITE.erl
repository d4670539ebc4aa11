%% @doc Any term that is published arrives equal, whatever release sent it and whatever release
%% receives it. The expected term travels past the gateway, over the nodes' own connection.
-module(terms_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, groups/0, init_per_suite/1, end_per_suite/1, init_per_group/2,
         end_per_group/2]).
-export([every_kind_of_term/1, numbers_at_their_borders/1, atoms_in_every_script/1,
         atoms_that_displace_each_other_in_the_cache/1, funs/1,
         pids_ports_and_references/1, a_binary_of_a_mebibyte/1, a_binary_of_twenty_mebibytes/1,
         deep_lists_and_tuples/1, a_list_of_a_million/1, large_maps/1, bit_strings/1,
         generated_terms/1, large_and_small_together/1]).

-define(EVENTS, esdb_channel_events).
-define(TOPIC, <<"terms">>).

suite() -> [{timetrap, {minutes, 4}}].

all() -> [{group, Group} || {Group, _, _} <- groups()].

groups() ->
    Cases = [every_kind_of_term, numbers_at_their_borders, atoms_in_every_script,
             atoms_that_displace_each_other_in_the_cache, funs, pids_ports_and_references,
             a_binary_of_a_mebibyte, a_binary_of_twenty_mebibytes,
             deep_lists_and_tuples, a_list_of_a_million, large_maps, bit_strings, generated_terms,
             large_and_small_together],
    [{otp25_to_otp25, [], Cases}, {otp25_to_otp27, [], Cases}, {otp27_to_otp25, [], Cases},
     {otp27_to_otp27, [], Cases}, {otp25_to_otp29, [], Cases}, {otp29_to_otp25, [], Cases},
     {otp27_to_otp29, [], Cases}].

init_per_suite(Config) ->
    World = gater_harness:new(),
    [{world, World}, {gateway, gater_harness:gateway(World)} | Config].

end_per_suite(Config) ->
    gater_harness:stop(value(world, Config)).

init_per_group(Group, Config) ->
    {From, To} = releases(Group),
    case [Skip || Release <- [From, To], Release =/= 25,
                  {skip, _} = Skip <- [gater_release:root(Release)]] of
        [Skip | _] -> Skip;
        [] ->
            #{node := Gater} = value(gateway, Config),
            Publisher = beam(From, Config),
            Subscriber = {Beam, Pid} = gater_harness:agent(beam(To, Config)),
            ok = gater_harness:call(Beam, {?EVENTS, value(gateway, Config)},
                {subscribe, ?TOPIC, Pid}),
            #{node := There} = Beam,
            pong = gater_harness:on(Publisher, fun() -> net_adm:ping(There) end),
            pong = gater_harness:on(Publisher, fun() -> net_adm:ping(Gater) end),
            [{publisher, Publisher}, {subscriber, Subscriber} | Config]
    end.

end_per_group(_, Config) ->
    {Subscriber, _} = value(subscriber, Config),
    gater_harness:kill_node(value(world, Config), Subscriber),
    gater_harness:kill_node(value(world, Config), value(publisher, Config)).

releases(otp25_to_otp25) -> {25, 25};
releases(otp25_to_otp27) -> {25, 27};
releases(otp27_to_otp25) -> {27, 25};
releases(otp27_to_otp27) -> {27, 27};
releases(otp25_to_otp29) -> {25, 29};
releases(otp29_to_otp25) -> {29, 25};
releases(otp27_to_otp29) -> {27, 29}.

beam(Release, Config) ->
    gater_harness:node(value(world, Config), #{otp => Release, modules => [?MODULE]}).

every_kind_of_term(Config) ->
    arrives(Config, fun() ->
        [ok, [], {}, #{}, <<>>, "text", [1 | 2], [a, [b, [c | d]]], {1, {2, {3}}}, 1.5, -0.0,
         #{a => #{b => [#{}]}, [1] => {2}, 1.0 => 1, 1 => 1.0}, <<1, 2, 3>>, [255, 256], [-1],
         {channel_message, x, y, z}, {'$gen_call', self(), stop}, {'EXIT', self(), normal}]
    end).

numbers_at_their_borders(Config) ->
    arrives(Config, fun() ->
        Powers = [1 bsl Bits || Bits <- [7, 8, 15, 16, 27, 31, 32, 59, 63, 64, 128, 2040, 2048, 40000]],
        Floats = [0.0, -0.0, 1.7976931348623157e308, 5.0e-324, -1.0e-300, 0.1, 1.0e22],
        lists:append([[N - 1, N, N + 1, -N, -N - 1, 1 - N] || N <- Powers]) ++ Floats
    end).

atoms_in_every_script(Config) ->
    arrives(Config, fun() ->
        ['', a, 'with space', 'ä', 'ß', 'жар', '漢字', '🦀', '\x{10ffff}', '\0',
         list_to_atom(lists:duplicate(255, $a)), list_to_atom(lists:duplicate(255, 16#1F980)),
         list_to_atom(lists:duplicate(255, $ä))]
    end).

%% A cache has 2048 slots. Every message has atoms of the one before and new ones, some of them too
%% many for its list and some too long for one byte.
atoms_that_displace_each_other_in_the_cache(Config) ->
    Long = lists:duplicate(70, 16#6F22),
    [arrives(Config, fun() ->
        [list_to_atom(case N rem 37 of
                          0 -> Long ++ integer_to_list(N);
                          _ -> "slot" ++ integer_to_list(N)
                      end) || N <- lists:seq(First, First + Count)]
     end) || {First, Count} <- [{150 * K, lists:nth(1 + K rem 3, [200, 254, 400])}
                                || K <- lists:seq(1, 40)]].

funs(Config) ->
    Check = fun(Bound) -> fun(X) -> {Bound, X} end end,
    arrives(Config, fun() ->
        [fun lists:map/2, fun erlang:self/0, fun 'ünïcode':'fün'/255, Check({self(), make_ref(), 1.5}),
         fun(X) -> X + 1 end, Check(binary:copy(<<"b">>, 100000))]
    end).

pids_ports_and_references(Config) ->
    arrives(Config, fun() ->
        Alias = alias(),
        [self(), group_leader(), spawn(fun() -> ok end), make_ref(), Alias, monitor(process, self()),
         hd(erlang:ports()), lists:last(erlang:ports()), erlang:ports(), processes(),
         binary_to_term(<<131, 88, 119, 3, "x@y", 1:32, 2:32, 3:32>>),
         binary_to_term(<<131, 90, 5:16, 119, 3, "x@y", 4:32, 1:32, 2:32, 3:32, 4:32, 5:32>>)]
    end).

a_binary_of_a_mebibyte(Config) ->
    arrives(Config, fun() -> rand:seed(exsss, 1), rand:bytes(1 bsl 20) end).

a_binary_of_twenty_mebibytes(Config) ->
    arrives(Config, fun() -> rand:seed(exsss, 2), #{payload => rand:bytes(20 bsl 20)} end).

deep_lists_and_tuples(Config) ->
    arrives(Config, fun() ->
        Deep = fun(Wrap) -> lists:foldl(fun(_, Inner) -> Wrap(Inner) end, bottom, lists:seq(1, 9000)) end,
        [Deep(fun(T) -> [T] end), Deep(fun(T) -> {T} end), Deep(fun(T) -> [a, T, b] end)]
    end),
    %% Where nothing follows the inner term there is no limit.
    arrives(Config, fun() ->
        lists:foldl(fun(_, Inner) -> {Inner} end, bottom, lists:seq(1, 1000000))
    end).

a_list_of_a_million(Config) ->
    arrives(Config, fun() -> [{N, N rem 7} || N <- lists:seq(1, 1000000)] end).

large_maps(Config) ->
    arrives(Config, fun() ->
        [maps:from_list([{Key(N), N} || N <- lists:seq(1, Size)])
         || Size <- [1, 31, 32, 33, 1000, 50000],
            Key <- [fun(N) -> N end, fun(N) -> list_to_atom("k" ++ integer_to_list(N rem 500)) end,
                    fun(N) -> {N, float(N)} end, fun(N) -> integer_to_binary(N) end]]
    end).

bit_strings(Config) ->
    arrives(Config, fun() -> [<<(1 bsl Bits - 1):Bits>> || Bits <- lists:seq(0, 70)] end).

generated_terms(Config) ->
    Seed = erlang:unique_integer([positive]),
    ct:log("seed ~p", [Seed]),
    arrives(Config, fun() -> rand:seed(exsss, Seed), [generate(6) || _ <- lists:seq(1, 3000)] end).

large_and_small_together(Config) ->
    %% A large one leaves in fragments; small ones of other processes go between them.
    [arrives(Config, fun() -> rand:seed(exsss, N), [rand:bytes(3 bsl 20), N] end)
     || N <- lists:seq(1, 5)].

%% @doc A random term, on any release.
generate(0) -> generate_leaf();
generate(Depth) ->
    Many = fun() -> [generate(Depth - 1) || _ <- lists:seq(1, rand:uniform(4) - 1)] end,
    case rand:uniform(9) of
        1 -> Many();
        2 -> list_to_tuple(Many());
        3 -> maps:from_list([{generate(Depth - 1), Value} || Value <- Many()]);
        4 -> Many() ++ generate_leaf();
        5 -> maps:from_list([{generate_leaf(), N} || N <- lists:seq(1, 25 + rand:uniform(20))]);
        _ -> generate_leaf()
    end.

generate_leaf() ->
    case rand:uniform(9) of
        1 -> rand:uniform(300) - 40;
        2 -> (rand:uniform(1 bsl 70) - (1 bsl 69)) bsl rand:uniform(200);
        3 -> rand:normal() * math:pow(10, rand:uniform(300));
        4 -> lists:nth(rand:uniform(6), [a, ok, '', 'ä', '漢', undefined]);
        5 -> rand:bytes(rand:uniform(80) - 1);
        6 -> Bits = rand:uniform(40), <<(rand:uniform(1 bsl Bits) - 1):Bits>>;
        7 -> make_ref();
        8 -> self();
        9 -> [rand:uniform(256) - 1 || _ <- lists:seq(1, rand:uniform(20))]
    end.

%% Publishes what `Make' makes on the publisher's node, and compares there where it arrives.
arrives(Config, Make) ->
    #{node := Gater} = value(gateway, Config),
    Subscriber = {Beam, Pid} = value(subscriber, Config),
    _ = gater_harness:on(Beam, fun() -> gater_agent:flush(Pid) end),
    gater_harness:on(value(publisher, Config), fun() ->
        Term = Make(),
        Pid ! {expected, Term},
        ok = gen_server:call({?EVENTS, Gater}, {publish, ?TOPIC, Term}, 60000)
    end),
    %% Compared over there: pids are compared as that node sees them, and nothing large moves.
    gater_harness:until(fun() -> gater_harness:on(Beam, fun() ->
        length(gater_agent:messages(Pid)) >= 2 end) end),
    Seen = gater_harness:on(Beam, fun() ->
        Messages = gater_agent:flush(Pid),
        [Expected] = [Term || {expected, Term} <- Messages],
        [Arrived] = [Term || {channel_message, ?EVENTS, ?TOPIC, Term} <- Messages],
        case Arrived =:= Expected of
            true -> equal;
            false -> {different, first_difference(Expected, Arrived)}
        end
    end),
    ?assertEqual(equal, Seen),
    #{node := There} = Beam,
    ?assertEqual(There, node(element(2, Subscriber))).

first_difference([Same | Expected], [Same | Arrived]) -> first_difference(Expected, Arrived);
first_difference([Expected | _], [Arrived | _]) -> {Expected, Arrived};
first_difference(Expected, Arrived) -> {Expected, Arrived}.

value(Key, Config) -> proplists:get_value(Key, Config).
