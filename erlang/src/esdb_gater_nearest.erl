%%% @private
%%% @doc The name that was meant by one that is not known: the nearest of those that are, if one is
%%% near. The gateway program judges by the same rule.
%%% @end
-module(esdb_gater_nearest).

-export([find/2, distance/2]).

-define(MOST_CHANGES, 3).
-define(LEAST_PREFIX, 3).

%% @doc The nearest of some known paths, such as `retry.max_attempts', to a path that is not known:
%% to the whole of it or to its last part. Near is what takes a change for every three characters,
%% three at most and one at least, and what begins with the unknown name.
-spec find(Unknown :: string(), Known :: [string()]) -> {ok, string()} | none.
find(Unknown, Known) ->
    Name = last(Unknown),
    Limit = max(1, min(?MOST_CHANGES, length(Name) div 3)),
    %% Of two that are equally near, the one of the same section.
    case lists:sort([{rate(Unknown, Name, Path), distance(Unknown, Path), Path} || Path <- Known]) of
        [{Rate, _, Path} | _] when Rate =< Limit -> {ok, Path};
        _ -> none
    end.

rate(Unknown, Name, Path) ->
    Last = last(Path),
    case length(Name) >= ?LEAST_PREFIX andalso lists:prefix(Name, Last) of
        true -> min(1, length(Last) - length(Name));
        false -> min(distance(Unknown, Path), distance(Name, Last))
    end.

last(Path) ->
    lists:last(string:split(Path, ".", all)).

%% @doc How many characters have to be inserted, deleted, replaced or swapped with their neighbour
%% to make one string of another (optimal string alignment).
-spec distance(string(), string()) -> non_neg_integer().
distance(A, B) ->
    rows(A, none, B, none, lists:seq(0, length(B))).

%% Rows of the table of distances between prefixes. `Before' is the row before the last, `Previous'
%% the character that the last row belongs to.
rows([], _Previous, _B, _Before, Row) ->
    lists:last(Row);
rows([C | Rest], Previous, B, Before, [First | _] = Row) ->
    Next = lists:reverse(cells(B, none, C, Previous, [none | shifted(Before)], Row, [First + 1])),
    rows(Rest, C, B, Row, Next).

%% What stands two to the left in the row before the last.
shifted(none) -> none;
shifted(Row) -> Row.

cells([], _PreviousB, _C, _PreviousC, _Before, _Row, Cells) ->
    Cells;
cells([D | Rest], PreviousB, C, PreviousC, Before, Row, [Left | _] = Cells) ->
    [Diagonal, Above | _] = Row,
    Cost = case C =:= D of true -> 0; false -> 1 end,
    Changed = lists:min([Left + 1, Above + 1, Diagonal + Cost]),
    {Swapped, Shorter} = swapped(Before),
    Cell = case is_integer(Swapped) andalso C =:= PreviousB andalso D =:= PreviousC of
               true -> min(Changed, Swapped + 1);
               false -> Changed
           end,
    cells(Rest, D, C, PreviousC, Shorter, tl(Row), [Cell | Cells]).

swapped([Head | none]) -> {Head, none};
swapped([Head | Tail]) -> {Head, Tail};
swapped(_) -> {none, none}.
