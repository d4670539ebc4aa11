%%% @private
%%% @doc The known gateways, their order, and the pauses between attempts to connect.
%%%
%%% Gateways are known from the configuration, and from a gateway that has announced the members of
%%% its cluster, including itself. Once members are known they come first: a configured gateway that
%%% is not a member may have been removed, and is only the last resort.
%%%
%%% Among equal gateways, one that has not failed since it last served comes first, then one on the
%%% host of this node, then the given order. After a failure the next gateway is tried at once. When
%%% all have failed there is a pause that doubles with each round, from 50 ms to 5 s.
%%% @end
-module(esdb_gater_gateways).

-export([new/1, learn/2, current/1, failed/2, succeeded/2, others/2, home/2, to_list/1]).

-export_type([gateways/0]).

-record(gateways, {
    named :: [node()],
    members = [] :: [node()],
    failed = [] :: [node()],                % in this round
    doubtful = [] :: [node()],              % failed and have not served since
    rounds = 0 :: non_neg_integer()         % since the last success
}).

-opaque gateways() :: #gateways{}.

-define(PAUSE_MIN, 50).
-define(PAUSE_MAX, 5000).

%% @doc Returns the configured gateways.
-spec new([node()]) -> gateways().
new(Nodes) ->
    #gateways{named = unique(Nodes)}.

%% @doc Replaces the known members of the cluster.
-spec learn([node()], gateways()) -> gateways().
learn(Nodes, #gateways{named = Named, failed = Failed, doubtful = Doubtful} = Gateways) ->
    Members = unique(Nodes),
    Known = Members ++ Named,
    Gateways#gateways{members = Members, failed = [N || N <- Failed, lists:member(N, Known)],
                      doubtful = [N || N <- Doubtful, lists:member(N, Known)]}.

%% @doc Returns the gateway to try now.
-spec current(gateways()) -> {ok, node()} | none.
current(Gateways) ->
    case untried(Gateways) of
        [Node | _] -> {ok, Node};
        [] -> none
    end.

%% @doc Records that a gateway has failed. Returns the greatest time in milliseconds to wait before
%% the next one is tried.
-spec failed(node(), gateways()) -> {Pause :: non_neg_integer(), gateways()}.
failed(Node, #gateways{failed = Failed, doubtful = Doubtful, rounds = Rounds} = Gateways) ->
    Without = Gateways#gateways{failed = lists:usort([Node | Failed]),
                                doubtful = lists:usort([Node | Doubtful])},
    case untried(Without) of
        [_ | _] -> {0, Without};
        [] -> {pause(Rounds), Without#gateways{failed = [], rounds = Rounds + 1}}
    end.

%% The pause is at most 2^16 times the minimum, since the shift must not create a big integer.
pause(Rounds) ->
    min(?PAUSE_MAX, ?PAUSE_MIN bsl min(Rounds, 16)).

%% @doc Records that a gateway serves.
-spec succeeded(node(), gateways()) -> gateways().
succeeded(Node, #gateways{doubtful = Doubtful} = Gateways) ->
    Gateways#gateways{failed = [], doubtful = lists:delete(Node, Doubtful), rounds = 0}.

%% @doc Returns whether there is another gateway that has not failed in this round.
-spec others(node(), gateways()) -> boolean().
others(Node, Gateways) ->
    lists:delete(Node, untried(Gateways)) =/= [].

%% @doc Returns a gateway on this host, unless the one in use is on this host.
-spec home(InUse :: node(), gateways()) -> {ok, node()} | none.
home(InUse, #gateways{named = Named, members = Members}) ->
    Choice = case Members of [] -> Named; _ -> Members end,
    case {is_home(InUse), [Node || Node <- Choice, is_home(Node)]} of
        {false, [Node | _]} -> {ok, Node};
        _ -> none
    end.

%% @doc Returns all gateways in the order in which they are tried.
-spec to_list(gateways()) -> [node()].
to_list(#gateways{named = Named, members = Members, doubtful = Doubtful}) ->
    preferred(Members, Doubtful) ++ preferred(Named -- Members, Doubtful).

untried(#gateways{failed = Failed} = Gateways) ->
    [Node || Node <- to_list(Gateways), not lists:member(Node, Failed)].

preferred(Nodes, Doubtful) ->
    {Bad, Good} = lists:partition(fun(Node) -> lists:member(Node, Doubtful) end, Nodes),
    home_first(Good) ++ home_first(Bad).

home_first(Nodes) ->
    {Home, Others} = lists:partition(fun is_home/1, Nodes),
    Home ++ Others.

is_home(Node) ->
    host(Node) =:= host(node()).

host(Node) ->
    lists:last(string:split(atom_to_list(Node), "@")).

unique(Nodes) ->
    lists:foldr(fun(Node, Acc) -> [Node | lists:delete(Node, Acc)] end, [], Nodes).
