%%% @private
%%% @doc The gateways to try, in turn, and how long to wait between rounds.
%%%
%%% A gateway that fails makes way for the next at once. When all have failed there is a pause
%%% that doubles with each round, from 50 ms to 5 s, with random 50 to 100 percent of it
%%% waited, so that many nodes that lost the same gateway do not come back together.
%%% @end
-module(esdb_gater_candidates).

-export([new/1, current/1, failed/1, succeeded/1, learn/2, to_list/1]).

-export_type([candidates/0]).

-record(candidates, {
    nodes :: [node()],
    %% Failures since the last success.
    failures = 0 :: non_neg_integer()
}).

-opaque candidates() :: #candidates{}.

-define(PAUSE_MIN, 50).
-define(PAUSE_MAX, 5000).

%% @doc Those on this host first, otherwise in the order given.
-spec new([node()]) -> candidates().
new(Nodes) ->
    Host = host(node()),
    {Own, Others} = lists:partition(fun(Node) -> host(Node) =:= Host end, Nodes),
    #candidates{nodes = Own ++ Others}.

%% @doc The one to try now.
-spec current(candidates()) -> {ok, node()} | none.
current(#candidates{nodes = [Node | _]}) -> {ok, Node};
current(#candidates{nodes = []}) -> none.

%% @doc The current one has failed. Gives how many milliseconds to wait before the next.
-spec failed(candidates()) -> {Pause :: non_neg_integer(), candidates()}.
failed(#candidates{nodes = []} = Candidates) ->
    {?PAUSE_MAX, Candidates};
failed(#candidates{nodes = [Node | Others], failures = Failures}) ->
    Round = length(Others) + 1,
    Next = #candidates{nodes = Others ++ [Node], failures = Failures + 1},
    case (Failures + 1) rem Round of
        0 -> {pause(Failures div Round), Next};
        _ -> {0, Next}
    end.

%% At most 2^16 times the minimum: the shift must not build a big number.
pause(Rounds) ->
    Pause = min(?PAUSE_MAX, ?PAUSE_MIN bsl min(Rounds, 16)),
    Pause - rand:uniform(Pause div 2 + 1) + 1.

%% @doc The current one serves.
-spec succeeded(candidates()) -> candidates().
succeeded(Candidates) ->
    Candidates#candidates{failures = 0}.

%% @doc Further gateways of the same cluster, tried after the known ones.
-spec learn([node()], candidates()) -> candidates().
learn(Nodes, #candidates{nodes = Known} = Candidates) ->
    Candidates#candidates{nodes = Known ++ [N || N <- lists:usort(Nodes),
                                                 not lists:member(N, Known)]}.

%% @doc All of them, the current one first.
-spec to_list(candidates()) -> [node()].
to_list(#candidates{nodes = Nodes}) ->
    Nodes.

host(Node) ->
    lists:last(string:split(atom_to_list(Node), "@")).
