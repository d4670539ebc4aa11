%% @doc What stays in order, what overtakes what, and messages in fragments of which several are
%% under way at once. Without the shim, and with it.
-module(lanes_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, groups/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_group/2,
         end_per_group/2]).
-export([order_holds_per_publisher_channel_and_topic/1,
         a_critical_message_overtakes_a_big_one_in_mid_flight/1,
         higher_channels_overtake_and_no_channel_overtakes_itself/1,
         fragments_of_many_messages_interleave_both_ways/1]).
%% Run on other nodes.
-export([publish_in_order/4, publish_large/4]).

-define(CHANNELS, [urgent, soon, usual, bulk]).
-define(MIB, (1 bsl 20)).
-define(IN_ORDER, 30).

suite() -> [{timetrap, {minutes, 2}}].

all() -> [{group, plain}, {group, shim}].

groups() ->
    Cases = [order_holds_per_publisher_channel_and_topic,
             a_critical_message_overtakes_a_big_one_in_mid_flight,
             higher_channels_overtake_and_no_channel_overtakes_itself,
             fragments_of_many_messages_interleave_both_ways],
    [{plain, [], Cases}, {shim, [], Cases}].

init_per_suite(Config) ->
    World = gater_harness:new(),
    Gateway = gater_harness:gateway(World, #{
        config => "[channels.urgent]\npriority = \"critical\"\n[channels.soon]\npriority = \"high\"\n"
                  "[channels.usual]\npriority = \"normal\"\n[channels.bulk]\npriority = \"low\"\n"}),
    [{world, World}, {gateway, Gateway} | Config].

end_per_suite(Config) ->
    gater_harness:stop(value(world, Config)).

init_per_group(Way, Config) ->
    %% With little room for what waits to be sent, senders take turns in mid-message.
    A = node(Way, Config, #{args => ["+zdbbl", "64"]}),
    B = node(Way, Config, other_release(Way)),
    %% One scheduler: processes of the shim run in the order in which something came for them.
    Stops = node(Way, Config, #{args => ["+S", "1"]}),
    [{way, Way}, {a, A}, {b, B}, {stops, Stops} | Config].

end_per_group(_, Config) ->
    [gater_harness:kill_node(value(world, Config), value(Beam, Config)) || Beam <- [a, b, stops]],
    ok.

%% The application is not where an OTP 27 node could load it.
other_release(plain) ->
    case gater_release:root(27) of
        {ok, _} -> #{otp => 27};
        {skip, _} -> #{}
    end;
other_release(shim) ->
    #{}.

order_holds_per_publisher_channel_and_topic(Config) ->
    {A, B, Stops} = beams(Config),
    #{node := Gater} = value(gateway, Config),
    Way = value(way, Config),
    Topics = [<<"one">>, <<"another">>],
    Subscribers = [subscriber(Config, Beam, ?CHANNELS, Topics) || Beam <- [A, B, Stops], _ <- [1, 2]],
    Publishers = [{Beam, {Letter, N}} || {Letter, Beam} <- [{a, A}, {b, B}], N <- [1, 2, 3]],
    [ok = Done || Done <- gater_ways:together(
        [{Beam, fun() -> ?MODULE:publish_in_order(Way, Gater, Topics, Name) end}
         || {Beam, Name} <- Publishers])],
    Expected = maps:from_list([{{Channel, Topic, Name}, lists:seq(1, ?IN_ORDER)}
                               || Channel <- ?CHANNELS, Topic <- Topics, {_, Name} <- Publishers]),
    [begin
         await(Subscriber, ?IN_ORDER * map_size(Expected)),
         ?assertEqual(Expected, in_order(Subscriber))
     end || Subscriber <- Subscribers].

%% @private
%% All of it together stays below what the low lane of a connection holds.
publish_in_order(Way, Gater, Topics, Name) ->
    [case Way of
         plain when N rem 2 =:= 1 ->
             ok = gen_server:cast({Channel, Gater}, {publish, Topic, {Name, N, body(N)}});
         _ ->
             ok = gater_ways:publish(Way, Gater, Channel, Topic, {Name, N, body(N)})
     end || N <- lists:seq(1, ?IN_ORDER), Channel <- ?CHANNELS, Topic <- Topics],
    ok.

%% Short ones, and some of two and of four fragments.
body(N) when N rem 15 =:= 1 -> binary:copy(<<N>>, 250000);
body(N) when N rem 10 =:= 2 -> binary:copy(<<N>>, 70000);
body(N) -> binary:copy(<<N>>, 10 * N).

%% What came of each publisher by channel and topic.
in_order({Beam, Pid}) ->
    gater_harness:on(Beam, fun() ->
        Heard = lists:foldl(fun({channel_message, Channel, Topic, {Name, N, Body}}, Acc) ->
            Body = body(N),
            maps:update_with({Channel, Topic, Name}, fun(Before) -> [N | Before] end, [N], Acc)
        end, #{}, gater_agent:messages(Pid)),
        maps:map(fun(_, Numbers) -> lists:reverse(Numbers) end, Heard)
    end).

a_critical_message_overtakes_a_big_one_in_mid_flight(Config) ->
    {A, _, Stops} = beams(Config),
    Subscriber = subscriber(Config, Stops, [urgent, bulk], [<<"overtaken">>]),
    gater_harness:signal(Stops, "STOP"),
    publish_zeros(Config, A, bulk, 1, 48 * ?MIB),
    begun(Config),
    %% The lane is empty but for what is under way, so it takes another one of any size.
    publish_zeros(Config, A, bulk, 2, 48 * ?MIB),
    [publish_zeros(Config, A, urgent, N, Size) || {N, Size} <- [{3, 10}, {4, 300000}, {5, 10}]],
    gater_harness:signal(Stops, "CONT"),
    await(Subscriber, 5),
    ?assertEqual([{urgent, 3, 10}, {urgent, 4, 300000}, {urgent, 5, 10}, {bulk, 1, 48 * ?MIB},
                  {bulk, 2, 48 * ?MIB}], numbers_and_sizes(Subscriber)).

higher_channels_overtake_and_no_channel_overtakes_itself(Config) ->
    {A, _, Stops} = beams(Config),
    Subscriber = subscriber(Config, Stops, ?CHANNELS, [<<"overtaken">>]),
    gater_harness:signal(Stops, "STOP"),
    %% Each so much longer than what goes before it that its share meanwhile does not finish it.
    Large = [{_, Low} | Higher] =
        [{bulk, 24 * ?MIB}, {usual, 16 * ?MIB}, {soon, 12 * ?MIB}, {urgent, 8 * ?MIB}],
    publish_zeros(Config, A, bulk, 1, Low),
    begun(Config),
    [publish_zeros(Config, A, Channel, 1, Size) || {Channel, Size} <- Higher],
    [publish_zeros(Config, A, Channel, 2, 10) || {Channel, _} <- Large],
    gater_harness:signal(Stops, "CONT"),
    await(Subscriber, 8),
    ?assertEqual(lists:append([[{Channel, 1, Size}, {Channel, 2, 10}]
                               || {Channel, Size} <- lists:reverse(Large)]),
                 numbers_and_sizes(Subscriber)).

fragments_of_many_messages_interleave_both_ways(Config) ->
    {A, B, _} = beams(Config),
    Gateway = #{node := Gater} = value(gateway, Config),
    Way = value(way, Config),
    Subscribers = [subscriber(Config, Beam, ?CHANNELS, [<<"large">>]) || Beam <- [A, B]],
    Answers = [gater_harness:agent(Beam) || Beam <- [A, B]],
    %% While the gateway stands still nothing is taken, so that all are under way at once.
    gater_harness:signal(Gateway, "STOP"),
    Sent = [gater_harness:on(Beam, fun() ->
                {Channel, spawn(?MODULE, publish_large, [Way, Gater, Channel, Answer])}
            end) || {Beam, Answer} <- Answers, Channel <- ?CHANNELS, _ <- [1, 2, 3]],
    gater_harness:until(fun() -> lists:all(fun(Beam) -> on_their_way(Beam, Sent) end, [A, B]) end),
    gater_harness:signal(Gateway, "CONT"),
    [begin
         await(Subscriber, length(Sent)),
         ?assertEqual(lists:sort(Sent), intact(Subscriber))
     end || Subscriber <- Subscribers],
    Each = length(Sent) div 2,
    [begin
         await(Answer, Each),
         ?assertEqual(lists:duplicate(Each, ok), gater_harness:messages(Answer))
     end || Answer <- Answers].

%% Whether all that publish on a node wait for room or for an answer, or have ended: through the shim
%% a message is on its way when it has been written to the connection.
on_their_way(Beam = #{node := Node}, Sent) ->
    gater_harness:on(Beam, fun() ->
        lists:all(fun(Pid) ->
            lists:member(process_info(Pid, status), [{status, suspended}, {status, waiting}, undefined])
        end, [Pid || {_, Pid} <- Sent, node(Pid) =:= Node])
    end).

%% @private
publish_large(Way, Gater, Channel, Answer) ->
    Term = large(Channel),
    Answer ! gater_ways:publish(Way, Gater, Channel, <<"large">>, {self(), erlang:phash2(Term), Term}).

%% As large as the lane can hold all of.
large(Channel) ->
    Blocks = maps:get(Channel, #{bulk => 16, usual => 32, soon => 48, urgent => 64}),
    %% Fragments never begin at the same place of a block.
    #{bytes => binary:copy(rand:bytes(65521), Blocks), list => [{N, Channel} || N <- lists:seq(1, 5000)]}.

%% Of whom something came on which channel that is what was sent.
intact({Beam, Pid}) ->
    gater_harness:on(Beam, fun() ->
        lists:sort([{Channel, From}
                    || {channel_message, Channel, _, {From, Hash, Term}} <- gater_agent:flush(Pid),
                       erlang:phash2(Term) =:= Hash])
    end).

%%% Helpers

value(Key, Config) -> proplists:get_value(Key, Config).

beams(Config) -> {value(a, Config), value(b, Config), value(stops, Config)}.

node(Way, Config, Options) ->
    gater_ways:node(value(world, Config), value(gateway, Config), Way, Options#{modules => [?MODULE]}).

subscriber(Config, Beam, Channels, Topics) ->
    gater_ways:subscriber(Beam, value(gateway, Config), value(way, Config), Channels, Topics).

publish_zeros(Config, Beam, Channel, N, Size) ->
    #{node := Gater} = value(gateway, Config),
    Way = value(way, Config),
    ok = gater_harness:on(Beam, fun() ->
        Message = {N, <<0:(Size * 8)>>},
        case Way of
            plain -> gater_ways:publish(Way, Gater, Channel, <<"overtaken">>, Message);
            %% The next one is published when the gateway has this one.
            shim -> esdb_channel_server:publish(Channel, <<"overtaken">>, Message,
                                                #{confirm => true})
        end
    end).

%% Its beginning fills the sockets.
begun(Config) ->
    gater_harness:until(fun() -> gater_ways:unread(value(gateway, Config)) > 256 * 1024 end).

await({Beam, Pid}, Count) ->
    gater_harness:until(fun() ->
        gater_harness:on(Beam, fun() -> length(gater_agent:messages(Pid)) >= Count end)
    end).

numbers_and_sizes({Beam, Pid}) ->
    gater_harness:on(Beam, fun() ->
        [{Channel, N, byte_size(Zeros)} || {channel_message, Channel, _, {N, Zeros}} <- gater_agent:flush(Pid)]
    end).
