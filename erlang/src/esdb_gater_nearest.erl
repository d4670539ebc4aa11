%%% @private
%%% @doc Finds the known name that an unknown one was probably meant to be: the nearest, if one is
%%% near. The gateway program applies the same rule.
%%% @end
-module(esdb_gater_nearest).

-export([find/2, distance/2]).

-define(MOST_CHANGES, 3).
-define(LEAST_PREFIX, 3).

%% @doc Returns the known path, such as `retry.max_attempts', that is nearest to an unknown path,
%% compared with the whole of it or with its last part. A name is near if its edit distance is at
%% most one for every three characters, but at least one and at most three, or if it begins with the
%% unknown name.
-spec find(Unknown :: string(), Known :: [string()]) -> {ok, string()} | none.
find(Unknown, Known) ->
    Name = last(Unknown),
    Limit = max(1, min(?MOST_CHANGES, length(Name) div 3)),
    %% If two paths are equally near, the one in the same section is chosen.
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

%% @doc Returns the edit distance of two strings: the number of insertions, deletions, replacements
%% and swaps of neighbouring characters (optimal string alignment).
-spec distance(string(), string()) -> non_neg_integer().
distance(A, B) ->
    rows(A, none, B, none, lists:seq(0, length(B))).

%% Returns the last row of the table of distances between prefixes. `Before' is the row before the
%% last, and `Previous' the character to which the last row belongs.
rows([], _Previous, _B, _Before, Row) ->
    lists:last(Row);
rows([C | Rest], Previous, B, Before, [First | _] = Row) ->
    Next = lists:reverse(cells(B, none, C, Previous, [none | shifted(Before)], Row, [First + 1])),
    rows(Rest, C, B, Row, Next).

%% Returns the element two to the left in the row before the last.
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
