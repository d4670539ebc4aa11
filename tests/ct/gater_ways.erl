%% @doc The two ways of a node to the channels of a gateway, plain calls and the application, so
%% that one test can be made of both; and what can be seen of a connection from outside.
-module(gater_ways).

-export([node/4, subscriber/5, publish/5, together/1, unread/1, octets/1]).
-export_type([way/0]).

-type way() :: plain | shim.

%% A node that stands still is none of a gateway's fault, nor is a busy machine.
-define(GATEWAY_TIMEOUT_MS, 20000).

%% @doc A node that can use a gateway, with further options of `gater_harness:node/2'.
-spec node(gater_harness:world(), gater_harness:gateway(), way(), map()) -> gater_harness:beam().
node(World, #{node := Gater}, plain, Options) ->
    Beam = gater_harness:node(World, Options#{modules => [?MODULE | maps:get(modules, Options, [])]}),
    pong = gater_harness:on(Beam, fun() -> net_adm:ping(Gater) end),
    Beam;
node(World, Gateway, shim, Options) ->
    Beam = gater_shim:node(World, [?MODULE | maps:get(modules, Options, [])], Options),
    ok = gater_shim:start(Beam, [{gateway_timeout_ms, ?GATEWAY_TIMEOUT_MS}
                                 | gater_shim:named([Gateway])]),
    Beam.

%% @doc An agent on a node that is subscribed to these topics of these channels, and is told when
%% the connection to the gateway is lost.
-spec subscriber(gater_harness:beam(), gater_harness:gateway(), way(), [atom()], [binary()]) ->
    {gater_harness:beam(), pid()}.
subscriber(Beam, #{node := Gater}, Way, Channels, Topics) ->
    Agent = {_, Pid} = gater_harness:agent(Beam),
    gater_harness:in(Agent, fun() -> true = monitor_node(Gater, true) end),
    gater_harness:on(Beam, fun() ->
        [ok = subscribe(Way, Gater, Channel, Topic, Pid) || Channel <- Channels, Topic <- Topics]
    end),
    Agent.

subscribe(plain, Gater, Channel, Topic, Pid) ->
    gen_server:call({Channel, Gater}, {subscribe, Topic, Pid}, 20000);
subscribe(shim, _, Channel, Topic, Pid) ->
    esdb_channel_server:subscribe(Channel, Topic, Pid).

%% @doc Publishes from a process of the node this runs on.
-spec publish(way(), node(), atom(), binary(), term()) -> ok | {error, term()}.
publish(plain, Gater, Channel, Topic, Message) ->
    gen_server:call({Channel, Gater}, {publish, Topic, Message});
publish(shim, _, Channel, Topic, Message) ->
    esdb_channel_server:publish(Channel, Topic, Message).

%% @doc Runs functions on nodes, each in a process of its own, all at the same time, and waits for
%% all. Their results in order.
-spec together([{gater_harness:beam(), fun(() -> Result)}]) -> [Result].
together(Runs) ->
    Self = self(),
    Running = [spawn_monitor(fun() -> Self ! {self(), gater_harness:on(Beam, Fun)} end)
               || {Beam, Fun} <- Runs],
    [receive
         {Pid, Result} -> demonitor(Monitor, [flush]), Result;
         {'DOWN', Monitor, _, _, Reason} -> error(Reason)
     end || {Pid, Monitor} <- Running].

%% @doc Bytes in the sockets of a gateway's listener that the other end has not read, both ways.
-spec unread(gater_harness:gateway()) -> non_neg_integer().
unread(#{port := Port}) ->
    {ok, Table} = file:read_file("/proc/net/tcp"),
    Hex = string:right(integer_to_list(Port, 16), 4, $0),
    %% sl local_address rem_address st tx_queue:rx_queue; 01 is established.
    {match, Queues} = re:run(Table, "^ *\\d+: (?:\\w+:" ++ Hex ++ " \\w+:\\w+|\\w+:\\w+ \\w+:" ++ Hex
                             ++ ") 01 (\\w+):(\\w+)",
                             [global, multiline, {capture, all_but_first, list}]),
    lists:sum([list_to_integer(Bytes, 16) || Queue <- Queues, Bytes <- Queue]).

%% @doc Bytes received from and sent to a connected node by the node this runs on.
-spec octets(node()) -> {Received :: non_neg_integer(), Sent :: non_neg_integer()}.
octets(Node) ->
    {ok, Info} = net_kernel:node_info(Node),
    Owner = proplists:get_value(owner, Info),
    {links, Links} = process_info(Owner, links),
    [Port] = [Port || Port <- Links, is_port(Port), erlang:port_info(Port, name) =:= {name, "tcp_inet"}],
    {ok, [{recv_oct, Received}, {send_oct, Sent}]} = inet:getstat(Port, [recv_oct, send_oct]),
    {Received, Sent}.
