%%% @private
%%% @doc The gateways there are, which of them to try, and how long to wait between rounds.
%%%
%%% There are those that the configuration names and those that a gateway has told of: the
%%% members of its cluster, itself included. Once members are known they go first: a named
%%% gateway that is none of them may have been put out, and is the last resort.
%%%
%%% Among equals one that has not failed since it last served goes first, then one on the host of
%%% this node, then the order given. One that fails makes way for the next at once. When all
%%% have failed there is a pause that doubles with each round, from 50 ms to 5 s.
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

%% @doc The named ones.
-spec new([node()]) -> gateways().
new(Nodes) ->
    #gateways{named = unique(Nodes)}.

%% @doc These are the members of the cluster now, and no others.
-spec learn([node()], gateways()) -> gateways().
learn(Nodes, #gateways{named = Named, failed = Failed, doubtful = Doubtful} = Gateways) ->
    Members = unique(Nodes),
    Known = Members ++ Named,
    Gateways#gateways{members = Members, failed = [N || N <- Failed, lists:member(N, Known)],
                      doubtful = [N || N <- Doubtful, lists:member(N, Known)]}.

%% @doc The one to try now.
-spec current(gateways()) -> {ok, node()} | none.
current(Gateways) ->
    case untried(Gateways) of
        [Node | _] -> {ok, Node};
        [] -> none
    end.

%% @doc This one has failed. Returns the milliseconds to wait at most before the next is tried.
-spec failed(node(), gateways()) -> {Pause :: non_neg_integer(), gateways()}.
failed(Node, #gateways{failed = Failed, doubtful = Doubtful, rounds = Rounds} = Gateways) ->
    Without = Gateways#gateways{failed = lists:usort([Node | Failed]),
                                doubtful = lists:usort([Node | Doubtful])},
    case untried(Without) of
        [_ | _] -> {0, Without};
        [] -> {pause(Rounds), Without#gateways{failed = [], rounds = Rounds + 1}}
    end.

%% At most 2^16 times the minimum: the shift must not build a big number.
pause(Rounds) ->
    min(?PAUSE_MAX, ?PAUSE_MIN bsl min(Rounds, 16)).

%% @doc This one serves.
-spec succeeded(node(), gateways()) -> gateways().
succeeded(Node, #gateways{doubtful = Doubtful} = Gateways) ->
    Gateways#gateways{failed = [], doubtful = lists:delete(Node, Doubtful), rounds = 0}.

%% @doc Whether there is one beside this that has not failed in this round.
-spec others(node(), gateways()) -> boolean().
others(Node, Gateways) ->
    lists:delete(Node, untried(Gateways)) =/= [].

%% @doc A gateway on this host, if the one in use is not and there is one.
-spec home(InUse :: node(), gateways()) -> {ok, node()} | none.
home(InUse, #gateways{named = Named, members = Members}) ->
    Choice = case Members of [] -> Named; _ -> Members end,
    case {is_home(InUse), [Node || Node <- Choice, is_home(Node)]} of
        {false, [Node | _]} -> {ok, Node};
        _ -> none
    end.

%% @doc All of them, the ones to try first at the front.
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
