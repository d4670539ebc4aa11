%% @doc `--join': a gateway that is told of one node of a cluster knows and follows all.
-module(mesh_SUITE).

-export([all/0, groups/0, init_per_group/2, end_per_group/2]).
-export([all_nodes_of_the_cluster_see_the_gateway/1,
         a_node_that_joins_the_cluster_is_connected/1,
         a_node_that_comes_back_is_connected_again/1,
         the_others_are_followed_without_the_node_that_was_named/1,
         a_worker_on_a_node_that_was_learnt_is_registered_through_another/1,
         hidden_nodes_of_the_cluster_are_left_alone/1,
         a_named_node_that_starts_later_is_joined/1,
         a_node_that_answers_nonsense_is_borne_with/1]).

-define(REGISTRY, esdb_gater_worker_registry).

all() -> [{group, otp25}, {group, otp27}, {group, otp29}].

groups() ->
    Cases = [all_nodes_of_the_cluster_see_the_gateway,
             a_node_that_joins_the_cluster_is_connected,
             a_node_that_comes_back_is_connected_again,
             the_others_are_followed_without_the_node_that_was_named,
             a_worker_on_a_node_that_was_learnt_is_registered_through_another,
             hidden_nodes_of_the_cluster_are_left_alone],
    [{otp25, [], Cases ++ [a_named_node_that_starts_later_is_joined,
                           a_node_that_answers_nonsense_is_borne_with]},
     {otp27, [], Cases},
     {otp29, [], Cases}].

init_per_group(Release, Config) -> gater_harness:on_release(Release, Config).

end_per_group(_, _) -> ok.

all_nodes_of_the_cluster_see_the_gateway(Config) ->
    cluster(Config, fun(_World, Gateway, Beams) -> all_see(Gateway, Beams) end).

a_node_that_joins_the_cluster_is_connected(Config) ->
    cluster(Config, fun(World, Gateway, Beams = [_, Second | _]) ->
        all_see(Gateway, Beams),
        Fourth = beam(World, Config),
        meshed(Fourth, [Second]),
        all_see(Gateway, [Fourth | Beams])
    end).

a_node_that_comes_back_is_connected_again(Config) ->
    cluster(Config, fun(World, Gateway, [First, Second, Third = #{node := Node}]) ->
        all_see(Gateway, [First, Second, Third]),
        gater_harness:kill_node(World, Third),
        gater_harness:until(fun() -> not knows(Gateway, First, Node) end),
        [Name, _] = string:split(atom_to_list(Node), "@"),
        Back = beam(World, Config, #{name => Name}),
        meshed(Back, [First]),
        all_see(Gateway, [First, Second, Back])
    end).

the_others_are_followed_without_the_node_that_was_named(Config) ->
    cluster(Config, fun(World, Gateway, [First, Second, Third]) ->
        all_see(Gateway, [First, Second, Third]),
        gater_harness:kill_node(World, First),
        Fourth = beam(World, Config),
        meshed(Fourth, [Third]),
        all_see(Gateway, [Second, Third, Fourth])
    end).

a_worker_on_a_node_that_was_learnt_is_registered_through_another(Config) ->
    cluster(Config, fun(_World, Gateway, Beams = [First, _, #{node := Node} = Third]) ->
        all_see(Gateway, Beams),
        {_, Worker} = gater_harness:agent(Third),
        ok = gater_harness:call(First, {?REGISTRY, Gateway}, {register, mesh_store, Worker}),
        {ok, [{Node, Worker}]} = gater_harness:call(First, {?REGISTRY, Gateway}, {get_workers, mesh_store})
    end).

hidden_nodes_of_the_cluster_are_left_alone(Config) ->
    cluster(Config, fun(World, Gateway, Beams = [First | _]) ->
        Hidden = beam(World, Config, #{args => ["-hidden"]}),
        meshed(Hidden, [First]),
        Later = beam(World, Config),
        meshed(Later, [First]),
        %% Who came after it is there, so it would be, too.
        all_see(Gateway, [Later | Beams]),
        [] = gater_harness:on(Hidden, fun() -> [N || N <- nodes(connected), N =:= maps:get(node, Gateway)] end)
    end).

a_named_node_that_starts_later_is_joined(Config) ->
    World = gater_harness:new(),
    try
        Name = gater_harness:unique("later"),
        Gateway = gater_harness:gateway(World, #{args => ["--join", Name ++ "@127.0.0.1"]}),
        Beam = beam(World, Config, #{name => Name}),
        all_see(Gateway, [Beam])
    after
        gater_harness:stop(World)
    end.

%% `rex' may be anybody's process on a node that is not what it seems.
a_node_that_answers_nonsense_is_borne_with(Config) ->
    cluster(Config, fun(World, Gateway, Beams = [_, Second, Third]) ->
        all_see(Gateway, Beams),
        gater_harness:on(Second, fun() ->
            Liar = spawn(fun Lie() ->
                receive
                    {'$gen_call', {Pid, Tag}, _} ->
                        [Pid ! Answer || Answer <- [
                            {Tag, lists:duplicate(100000, 'nobody@127.0.0.1')}, {Tag, [1, 2 | three]},
                            {Tag, ['no name', "a", <<"b@h">>, {}]}, {-1, []}, Tag, {Tag, not_a_list}]],
                        Lie()
                end
            end),
            unregister(rex),
            register(rex, Liar)
        end),
        Fourth = beam(World, Config),
        meshed(Fourth, [Third]),
        all_see(Gateway, [Fourth])
    end).

%%% What the cases share

%% Three nodes that know each other, and a gateway that was told of the first.
cluster(Config, Case) ->
    World = gater_harness:new(),
    try
        Beams = [First | Others] = [beam(World, Config) || _ <- [1, 2, 3]],
        [meshed(Other, Beams -- [Other]) || Other <- Others],
        #{node := Seed} = First,
        Gateway = gater_harness:gateway(World, #{args => ["--join", atom_to_list(Seed)]}),
        Case(World, Gateway, Beams)
    after
        gater_harness:stop(World)
    end.

beam(World, Config) -> beam(World, Config, #{}).

%% A node that meshes with the nodes its neighbours know.
beam(World, Config, Options) ->
    Arguments = ["-connect_all", "true" | maps:get(args, Options, [])],
    gater_harness:node(World, Options#{args => Arguments, otp => proplists:get_value(otp, Config),
                                       modules => [?MODULE]}).

meshed(Beam, Others) ->
    [gater_harness:until(fun() ->
        pong =:= gater_harness:on(Beam, fun() -> net_adm:ping(Other) end)
     end) || #{node := Other} <- Others].

%% Waits until a gateway has connected to every one of the nodes.
all_see(#{node := Gateway}, Beams) ->
    [gater_harness:until(fun() ->
        lists:member(Gateway, gater_harness:on(Beam, fun() -> nodes(hidden) end))
     end) || Beam <- Beams].

%% Whether the gateway counts a node among those it is connected with.
knows(Gateway, Beam, Node) ->
    #{connected_nodes := Count} = gater_harness:call(Beam, {esdb_gater_session, Gateway}, info),
    Others = gater_harness:on(Beam, fun() -> nodes() end),
    lists:member(Node, Others) orelse Count > length(Others) + 1.
