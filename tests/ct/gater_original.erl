%% @doc Plays the original library on plain nodes: workers and subscribers are members of `pg'
%% groups, messages are sent to the members, signatures are those of `term_to_binary/1'.
-module(gater_original).

-export([node/1, node/2, connect/1, worker/2, members/2, subscriber/2, subscribers/2, publish/4,
         received/1, sign/2, verify/2]).

-define(WORKERS, reckon_gater_pg).
-define(TOPICS, esdb_channel_scope).

%% @doc A node with the original's scopes.
-spec node(gater_harness:world()) -> gater_harness:beam().
node(World) -> node(World, #{}).

%% @doc As `node/1' with options of `gater_harness:node/2'.
-spec node(gater_harness:world(), map()) -> gater_harness:beam().
node(World, Options) ->
    Modules = [?MODULE, gater_shim | maps:get(modules, Options, [])],
    Beam = gater_harness:node(World, Options#{modules => Modules}),
    [{ok, _} = gater_harness:on(Beam, fun() -> pg:start(Scope) end)
     || Scope <- [?WORKERS, ?TOPICS]],
    Beam.

%% @doc Connects nodes with each other.
-spec connect([gater_harness:beam()]) -> ok.
connect(Beams) ->
    Nodes = [Node || #{node := Node} <- Beams],
    lists:foreach(fun(Beam) ->
        gater_harness:until(fun() ->
            gater_harness:on(Beam, fun() ->
                [net_kernel:connect_node(Node) || Node <- Nodes, Node =/= node()],
                Nodes -- [node() | nodes()] =:= []
            end)
        end)
    end, Beams).

group(Store) -> list_to_atom("esdb_gater_workers_" ++ atom_to_list(Store)).

%% @doc A worker of a store that answers as those of `gater_shim:workers/3'.
-spec worker(gater_harness:beam(), atom()) -> pid().
worker(Beam, Store) ->
    Group = group(Store),
    gater_harness:on(Beam, fun() ->
        Pid = spawn(fun gater_shim:echo/0),
        ok = pg:join(?WORKERS, Group, Pid),
        Pid
    end).

%% @doc The workers of a store as a node sees them.
-spec members(gater_harness:beam(), atom()) -> [pid()].
members(Beam, Store) ->
    Group = group(Store),
    gater_harness:on(Beam, fun() -> pg:get_members(?WORKERS, Group) end).

%% @doc An agent that subscribes to a topic.
-spec subscriber(gater_harness:beam(), binary()) -> {gater_harness:beam(), pid()}.
subscriber(Beam, Topic) ->
    {_, Pid} = Agent = gater_harness:agent(Beam),
    ok = gater_harness:on(Beam, fun() -> pg:join(?TOPICS, Topic, Pid) end),
    Agent.

%% @doc Who gets what is published, as a node sees them.
-spec subscribers(gater_harness:beam(), binary()) -> [pid()].
subscribers(Beam, Topic) ->
    gater_harness:on(Beam, fun() -> pg:get_members(?TOPICS, Topic) end).

%% @doc Publishes a message.
-spec publish(gater_harness:beam(), atom(), binary(), term()) -> ok.
publish(Beam, Channel, Topic, Message) ->
    gater_harness:on(Beam, fun() ->
        [Pid ! {channel_message, Channel, Topic, Message}
         || Pid <- pg:get_members(?TOPICS, Topic)],
        ok
    end).

%% @doc The messages that a subscriber got, of either kind.
-spec received({gater_harness:beam(), pid()}) -> [term()].
received(Agent) -> [M || {channel_message, _, _, M} <- gater_harness:messages(Agent)].

%% @doc Signs a map on the node that this runs on.
-spec sign(map(), binary()) -> map().
sign(Map, Secret) ->
    Timed = Map#{signed_at => erlang:system_time(second)},
    Timed#{signature => mac(Timed, Secret)}.

%% @doc Whether the node that this runs on takes a signature for good.
-spec verify(map(), binary()) -> boolean().
verify(#{signature := Signature} = Signed, Secret) ->
    Signature =:= mac(maps:remove(signature, Signed), Secret).

mac(Map, Secret) ->
    base64:encode(crypto:mac(hmac, sha256, Secret, term_to_binary(lists:sort(maps:to_list(Map))))).
