-- Rows lie where there is room: sqlite/V8__rows_in_order.sql concerns SQLite alone.
SELECT 1;
